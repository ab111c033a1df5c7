"""Ed25519 keys of those who measure or release: the private one in the environment, public ones in policies.

``FASTPRUNE_SIGNING_KEY`` holds a private key in PEM, or names its file.
"""

from __future__ import annotations

import base64
import binascii
import os
from pathlib import Path
from typing import TYPE_CHECKING

from fastprune.errors import InputError
from fastprune.store.bounded import read_bytes

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

KEY = "FASTPRUNE_SIGNING_KEY"

_PREFIX = "ed25519:"


def public_key() -> str:
    """Of the key that is set to sign with; empty where none is. Raises InputError for one that cannot be read."""
    key = private_key()
    return "" if key is None else public(key)


def make_key(file: Path) -> str:
    """Write a new private key, for its owner's eyes alone, and return the public one.

    Raises
    ------
    InputError
        The file exists or cannot be written.
    """
    from cryptography.hazmat.primitives import serialization as forms
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

    key = Ed25519PrivateKey.generate()
    content = key.private_bytes(forms.Encoding.PEM, forms.PrivateFormat.PKCS8, forms.NoEncryption())
    try:
        with open(os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as output:
            output.write(content)
    except OSError as error:
        raise InputError(f"{file}: a new key cannot be written here ({error.strerror}); name another file") from error
    return public(key)


def check_public(key: str) -> str:
    """A public key as it was given. Raises ValueError for what is none."""
    if not key.startswith(_PREFIX) or len(decoded(key.removeprefix(_PREFIX))) != 32:
        raise ValueError(f"{key!r} is no public key; give what `fastprune signing-key` prints (ed25519:...)")
    return key


def private_key() -> Ed25519PrivateKey | None:
    """The key that is set to sign with. Raises InputError for one that cannot be read."""
    given = os.environ.get(KEY, "")
    if not given:
        return None
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
    from cryptography.hazmat.primitives.serialization import load_pem_private_key

    is_file = os.path.exists(given)
    where = given if is_file else KEY  # what names no file may be a damaged key, which nobody must be told
    try:
        key = load_pem_private_key(read_bytes(given) if is_file else given.strip().encode(), None)
    except (OSError, ValueError, TypeError, UnsupportedAlgorithm) as error:
        raise InputError(
            f"{where}: holds no private key in PEM, nor the name of its file; make one with `fastprune signing-key "
            f"FILE`, or unset {KEY}"
        ) from error
    if not isinstance(key, Ed25519PrivateKey):
        raise InputError(
            f"{where}: is a key of another kind than Ed25519; make one with `fastprune signing-key FILE`, or unset "
            f"{KEY}"
        )
    return key


def public(key: Ed25519PrivateKey) -> str:
    """The public half of a key, in one word."""
    return _PREFIX + base64.b64encode(key.public_key().public_bytes_raw()).decode()


def sign(key: Ed25519PrivateKey, content: bytes) -> str:
    """The signature of a content, in base64."""
    return base64.b64encode(key.sign(content)).decode()


def holds(signature: str, key: str, content: bytes) -> bool:
    """Whether a signature is that of the content, by the public key."""
    from cryptography.exceptions import InvalidSignature

    try:
        read_public(key).verify(decoded(signature), content)
    except (InvalidSignature, ValueError):
        return False
    return True


def read_public(key: str) -> Ed25519PublicKey:
    """A public key. Raises ValueError for what is none."""
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

    return Ed25519PublicKey.from_public_bytes(decoded(check_public(key).removeprefix(_PREFIX)))


def decoded(text: str) -> bytes:
    """The bytes that base64 stands for. Raises ValueError for anything else."""
    try:
        return base64.b64decode(text, validate=True)
    except binascii.Error as error:
        raise ValueError("it is not base64") from error
