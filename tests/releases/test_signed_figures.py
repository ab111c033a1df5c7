"""Figures that are measured, not believed: signed by who measured them, or measured again by who promotes."""

import json
import shutil
import stat

import pytest
from click.testing import CliRunner
from tiny_releases import LENIENT, NAME, command

import fastprune
from fastprune.cli.main import main
from fastprune.data import Task
from fastprune.errors import InputError, Refused
from fastprune.releases import promotion, registration, verification
from fastprune.releases.policy import Policy, parse_policy
from fastprune.stages.report import report
from fastprune.store.keys import KEY, make_key, public_key
from fastprune.store.signatures import SIGNATURE
from fastprune.tracking import mlflow_store


@pytest.fixture(scope="module")
def keys(tmp_path_factory):
    """Two private keys by name: their file, and the public one."""
    root = tmp_path_factory.mktemp("keys")
    return {name: (root / name, make_key(root / name)) for name in ("pipeline", "mallory")}


@pytest.fixture(scope="module")
def signed(source, keys, tmp_path_factory):
    """A folder of ``compress``, signed by the pipeline's key."""
    folder = tmp_path_factory.mktemp("signed") / "out"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(KEY, str(keys["pipeline"][0]))
        fastprune.compress(
            source["source"],
            dataset=source["train_file"],
            evaluation=source["eval_file"],
            task=Task("table", "classification", "accuracy", ("sentence",), "label"),
            keep_ratio=0.5,
            num_samples=48,
            output_dir=folder,
            progress=False,
        )
    return folder


@pytest.fixture
def out(signed, tmp_path, monkeypatch):
    monkeypatch.delenv(KEY, raising=False)
    return shutil.copytree(signed, tmp_path / "out")


@pytest.fixture
def uri(tmp_path, monkeypatch):
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    return f"sqlite:///{tmp_path}/mlflow.db"


def edit(file, **changes):
    file.write_text(json.dumps(json.loads(file.read_text()) | changes))


def register(uri, folder):
    return registration.register(uri, folder, NAME, json.loads((folder / "metrics.json").read_text()))


def test_a_signed_version_is_promoted_and_verify_says_who_measured_it(uri, out, keys):
    version, key = register(uri, out), keys["pipeline"][1]
    verdict = promotion.promote(uri, NAME, version, Policy(max_accuracy_drop=1, signed_by=[key]), why="signed")
    [check] = [check for check in verdict.checks if check.name == "signed_by"]
    assert check.passed and check.found.startswith(f"signed by {key} at 20")
    assert f"its figures were signed by {key} at 20" in command(uri, "verify", NAME, version)


def test_without_the_key_that_the_policy_names_nothing_is_promoted(uri, out, keys):
    other = Policy(max_accuracy_drop=1, signed_by=[keys["mallory"][1]])
    with pytest.raises(promotion.PolicyNotMet, match="signed_by: signed by ed25519"):
        promotion.promote(uri, NAME, register(uri, out), other, why="by another key")
    (out / SIGNATURE).unlink()
    (out / "README.md").write_text("unsigned")
    version = register(uri, out)
    with pytest.raises(promotion.PolicyNotMet, match="signed_by: not signed, required ed25519:.* or measured again"):
        promotion.promote(uri, NAME, version, other, why="not signed")
    assert "its figures are not signed: they are what was registered" in command(uri, "verify", NAME, version)


@pytest.mark.parametrize(
    "forge, words",
    [
        (lambda out, keys: edit(out / "metrics.json", latency_ms={"dense": 49, "pruned": 1}), "metrics.json are"),
        (lambda out, keys: (out / "vocab.txt").open("a").write("more\n"), "the files of the model are not what"),
        (lambda out, keys: edit(out / SIGNATURE, key=keys["mallory"][1]), "is not signed with the key that it names"),
        (lambda out, keys: edit(out / SIGNATURE, signature="AAAA"), "is not signed with the key that it names"),
        (lambda out, keys: edit(out / SIGNATURE, key="ed25519:AAAA"), "is not signed with the key that it names"),
        (lambda out, keys: edit(out / SIGNATURE, more=1), "does not fit schema version 1"),
    ],
)
def test_a_forged_folder_is_not_registered(uri, out, keys, forge, words):
    forge(out, keys)
    with pytest.raises(InputError, match=words):
        register(uri, out)


def test_figures_that_were_not_signed_are_not_registered_under_a_signature(uri, out):
    """A client that has been changed writes its own evidence: ``promote`` compares it with what is signed."""
    version = register(uri, out)
    with verification.check_stored(mlflow_store.connect(uri), NAME, version) as stored:
        record = stored.model_dir.parent / "record"
        with pytest.raises(Refused, match="other figures than were signed"):
            forged = stored.evidence.model_copy(update={"speedup": 49.0})
            verification._signed(record, forged, stored.artifact, "x")
        manifest, lineage = registration.read_manifest(stored.model_dir), stored.evidence.lineage | {"seed": 7}
        for lie in ({"weights_sha256": "0" * 64}, {"lineage": lineage}, {"megabytes": 1.0}):
            with pytest.raises(Refused, match="contradict each other"):
                verification._check_figures(stored.evidence.model_copy(update=lie), stored.artifact, manifest, "x")


def test_the_pipeline_signs_in_its_report(folders, keys, tmp_path, monkeypatch, uri):
    names = ("model", "dense", "importance", "chosen", "searched", "rearranged", "pruned", "measured")
    monkeypatch.setenv(KEY, keys["pipeline"][0].read_text())  # as a secret of Kubernetes gives it
    report(**{name: folders[name] for name in names}, report=tmp_path / "report")
    assert public_key() == keys["pipeline"][1]
    metrics = json.loads((tmp_path / "report" / "metrics.json").read_text())
    version = registration.register(uri, folders["pruned"], NAME, metrics, measured=tmp_path / "report")
    promotion.promote(uri, NAME, version, Policy(signed_by=[public_key()]), why="signed by the pipeline")
    assert not (folders["report"] / SIGNATURE).exists()


def test_measured_again(uri, out, source):
    (out / SIGNATURE).unlink()
    version = register(uri, out)
    strict = ("--policy", out.parent / "policy.yaml", "--why", "checked", "--remeasure")
    (out.parent / "policy.yaml").write_text(f"max_accuracy_drop: 1\nsigned_by: [{make_key(out.parent / 'key')}]\n")
    refused = command(uri, "promote", NAME, version, *strict, source["train_file"], status=3)
    assert "is not what the version was evaluated on" in refused
    refused = command(uri, "promote", NAME, version, *strict, source["eval_file"], "--source", out, status=2)
    assert "was already pruned by fastprune" in refused
    told = command(uri, "promote", NAME, version, *strict, source["eval_file"])
    assert "not signed, and measured again by who promotes" in told and "is the champion" in told


def test_a_lie_is_found_by_measuring_again(uri, out, source):
    (out / SIGNATURE).unlink()
    (out / "outcomes.parquet").unlink()
    edit(out / "metrics.json", pruned=0.123)
    version = register(uri, out)
    with pytest.raises(Refused, match="measured again, the pruned model has accuracy .* and not 0.123"):
        promotion.promote(uri, NAME, version, LENIENT, why="x", remeasure=source["eval_file"])
    assert promotion.history(uri, NAME)[-1].action == "refused"


def test_a_key_is_its_owners_alone(tmp_path, monkeypatch, out):
    file = tmp_path / "key"
    made = CliRunner().invoke(main, ["signing-key", str(file)])
    assert made.exit_code == 0 and made.output.startswith("ed25519:")
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    with pytest.raises(InputError, match="a new key cannot be written here"):
        make_key(file)
    monkeypatch.setenv(KEY, f"\n{file.read_text()}")  # as a block of YAML gives it
    assert public_key() == made.output.strip()
    body = file.read_text().splitlines()[1]
    for wrong in (str(tmp_path / "none"), str(out / "metrics.json"), "-----BEGIN nonsense", body, f"{body} x" * 99):
        monkeypatch.setenv(KEY, wrong)
        with pytest.raises(InputError, match="no private key in PEM") as told:
            public_key()
        assert body not in str(told.value)
    with pytest.raises(InputError, match="no public key"):
        parse_policy("signed_by: [abc]")
