"""Register, promote, roll back, history, verify: on a SQLite store and a folder."""

import json
import re
import shutil
from pathlib import Path

import pytest
from click.testing import CliRunner
from tiny_releases import LENIENT, NAME, aliases

from fastprune.cli.main import main
from fastprune.errors import InputError
from fastprune.releases import control, ledger, promotion, record, registration, verification
from fastprune.releases.evidence import Evidence
from fastprune.releases.policy import Policy, judge, read_policy
from fastprune.tracking import mlflow_store


def test_a_version_carries_its_lineage(store, made):
    client = mlflow_store.connect(store)
    version = client.get_model_version(NAME, "1")
    manifest = json.loads((made / "one" / "manifest.json").read_text())
    assert set(version.tags) == {"artifact_sha256", "evidence_sha256", "fastprune.facts", "owner", "registered_by"}
    facts = json.loads(version.tags["fastprune.facts"])
    for name in ("source_sha256", "sample_sha256", "evaluation_sha256", "seed", "keep_ratio"):
        assert facts[name] == manifest[name]
    assert version.tags["registered_by"] == "ann" and facts["pruned"] <= 1
    evidence = verification.read_evidence(client, NAME, "1")
    assert evidence.digest == version.tags["evidence_sha256"] and evidence.speedup > 0 and evidence.megabytes > 0
    run = client.get_run(version.run_id)
    assert run.info.status == "FINISHED"
    assert run.info.run_name == f"register {NAME} version 1"
    assert run.data.tags["weights.sha256"] == evidence.weights_sha256 and run.data.tags["weights.uri"]


def test_the_same_model_is_registered_once(store, made):
    client, metrics = mlflow_store.connect(store), json.loads((made / "two" / "metrics.json").read_text())
    assert registration.register(store, made / "two", NAME, metrics, tags={"ticket": "OPS-1"}) == "2"
    assert len(client.search_model_versions(f"name='{NAME}'")) == 3
    assert client.get_model_version(NAME, "2").tags["ticket"] == "OPS-1"


@pytest.mark.parametrize("tag", ["evidence_sha256", "seed", "pruned", "promotion", "promotion.verdict"])
def test_a_tag_of_fastprunes_own_cannot_be_given(store, made, tag):
    with pytest.raises(InputError, match=f"the tag {tag} is written by fastprune"):
        registration.register(store, made / "two", NAME, {}, tags={tag: "passed"})


def test_promote_roll_back_and_the_history(store):
    promotion.promote(store, NAME, "1", LENIENT, why="the first", by="ann")
    assert aliases(store) == {"champion": "1"}
    verdict = promotion.promote(store, NAME, "2", LENIENT, why="better", by="bob")
    assert aliases(store) == {"champion": "2", "previous": "1"} and verdict.champion == "1"
    control.rollback(store, NAME, why="worse after all", by="cy")
    assert aliases(store) == {"champion": "1", "previous": "2"}
    told = promotion.history(store, NAME)
    assert [(event.action, event.from_version, event.to_version, event.by, event.why) for event in told] == [
        ("promote", None, "1", "ann", "the first"),
        ("promote", "1", "2", "bob", "better"),
        ("rollback", "2", "1", "cy", "worse after all"),
    ]
    client = mlflow_store.connect(store)
    tags = client.get_model_version(NAME, "2").tags
    assert tags["promotion.verdict"] == "passed" and tags["promotion"] == f"by bob at {verdict.at}: better"
    assert tags["rolled_back"].startswith("by cy at ") and tags["rolled_back"].endswith(": worse after all")
    kept = client.list_artifacts(client.get_model_version(NAME, "2").run_id, "promotion")
    assert [Path(file.path).stem for file in kept] == [told[1].verdict_sha256]
    for alias in ("champion", "previous"):
        client.delete_registered_model_alias(NAME, alias)
    client.delete_model_version(NAME, "2")
    assert promotion.history(store, NAME) == told, "the record survives aliases and versions"
    with pytest.raises(InputError, match="[Vv]ersion=?.*3.* not found|never was"):
        control.rollback(store, NAME, why="again", to="3")
    assert aliases(store)["champion"] == "1"


def test_a_policy_that_is_not_met_changes_nothing_but_the_verdict(store):
    promotion.promote(store, NAME, "1", LENIENT, why="the first")
    strict = Policy(
        max_accuracy_drop=1.0, min_speedup=1000, required_tags={"ticket": r"OPS-\d+", "owner": "ann"}, approvers=["zoe"]
    )
    with pytest.raises(promotion.PolicyNotMet) as refused:
        promotion.promote(store, NAME, "2", strict, why="please", by="bob", override=True)
    passed = {check.name: check.passed for check in refused.value.verdict.checks}
    assert passed == {
        "policy": True,
        "max_accuracy_drop": True,
        "min_speedup": False,
        "required_tags.ticket": False,
        "required_tags.owner": True,
        "approvers": False,
    }
    assert aliases(store) == {"champion": "1"}
    noted = promotion.history(store, NAME)[-1]
    assert (noted.number, noted.action, noted.to_version, noted.by, noted.why) == (2, "refused", "2", "bob", "please")
    assert "min_speedup: " in noted.failed and "required_tags.ticket: not recorded" in noted.failed
    client = mlflow_store.connect(store)
    tags = client.get_model_version(NAME, "2").tags
    assert tags["promotion.verdict"] == "failed" and "required one of zoe" in tags["promotion"]

    client.set_model_version_tag(NAME, "2", "promotion.check.approvers", "failed")  # as version 0.1.0 did
    promotion.promote(store, NAME, "2", LENIENT, why="by a policy without approvers")
    tags = mlflow_store.connect(store).get_model_version(NAME, "2").tags
    assert tags["promotion.verdict"] == "passed" and tags["owner"] == "ann"
    assert tags["promotion.check.approvers"] == f"see promotion/{tags['promotion.verdict_sha256']}.json"


def test_a_stale_champion_is_told(store):
    promotion.promote(store, NAME, "1", LENIENT, why="the first")
    with pytest.raises(promotion.ChampionMoved, match="from version 3 to version 1"):
        promotion.promote(store, NAME, "2", LENIENT, why="better than 3", expected="3")
    assert aliases(store) == {"champion": "1"}


def test_of_two_promotions_that_judged_the_same_champion_the_second_loses(store, monkeypatch):
    promotion.promote(store, NAME, "1", LENIENT, why="the first")
    judged = promotion._publish

    def slow(*arguments):  # the other one comes between the verdict and the move
        monkeypatch.setattr(promotion, "_publish", judged)
        promotion.promote(store, NAME, "3", LENIENT, why="was quicker")
        judged(*arguments)

    monkeypatch.setattr(promotion, "_publish", slow)
    with pytest.raises(promotion.ChampionMoved, match="from version 1 to version 3"):
        promotion.promote(store, NAME, "2", LENIENT, why="was slower")
    assert aliases(store) == {"champion": "3", "previous": "1"}


def test_an_alias_that_is_moved_by_hand_is_moved_back(store):
    promotion.promote(store, NAME, "1", LENIENT, why="the first")
    mlflow_store.connect(store).set_registered_model_alias(NAME, "champion", "3")
    promotion.promote(store, NAME, "2", LENIENT, why="better")
    assert aliases(store) == {"champion": "2", "previous": "1"}


@pytest.mark.parametrize(
    "spoil, message",
    [
        (lambda client: client.delete_model_version_tag(NAME, "2", "evidence_sha256"), "has no evidence"),
        (
            lambda client: client.set_model_version_tag(NAME, "2", "evidence_sha256", "0" * 64),
            "not what was registered",
        ),
        (lambda client: client.delete_model_version(NAME, "2"), "not found"),
    ],
)
def test_a_version_without_sound_evidence_is_refused(store, spoil, message):
    spoil(mlflow_store.connect(store))
    with pytest.raises(InputError, match=message):
        promotion.promote(store, NAME, "2", LENIENT, why="please")
    assert all(event.action == "refused" for event in promotion.history(store, NAME)) and not aliases(store)


def test_the_evaluation_data_must_be_the_champions():
    one = evidence()
    other = evidence(lineage={"evaluation_sha256": "other"})
    policy = Policy(same_evaluation_data=True)
    assert judge(policy, one, None, {}, "ann")[0].passed and judge(policy, one, one, {}, "ann")[0].passed
    assert not judge(policy, other, one, {}, "ann")[0].passed
    assert not judge(policy, evidence(lineage={}), None, {}, "ann")[0].passed


def evidence(**changes):
    known = {
        "metric": "accuracy",
        "dense": 0.9,
        "pruned": 0.89,
        "speedup": 2.0,
        "megabytes": 10.0,
        "lineage": {"evaluation_sha256": "one"},
        "artifact_sha256": "a",
        "weights_sha256": "w",
        "serving_sha256": "s",
        "probe": {"texts": [], "logits": []},
    }
    return Evidence(**known | changes)


@pytest.mark.parametrize(
    "policy, changes, passed",
    [
        ({"max_accuracy_drop": 0.01}, {}, True),
        ({"max_accuracy_drop": 0.01}, {"pruned": 0.8899}, False),
        ({"max_accuracy_drop": 0.0}, {"pruned": 0.95}, True),
        ({"min_speedup": 2}, {}, True),
        ({"min_speedup": 2}, {"speedup": 1.99}, False),
        ({"min_speedup": 0.1}, {"speedup": None}, False),
        ({"max_megabytes": 10}, {}, True),
        ({"max_megabytes": 9.9}, {}, False),
    ],
)
def test_the_limits(policy, changes, passed):
    [check] = judge(Policy(**policy), evidence(**changes), None, {}, "ann")
    assert check.passed is passed


@pytest.mark.parametrize(
    "text, message",
    [
        ("", "checks nothing"),
        ("max_accuracy_drop: -1", "max_accuracy_drop: .*greater than or equal to 0"),
        ("min_speed: 2", "min_speed: Extra inputs.*the fields are .*min_speedup"),
        ("min_speedup: .nan", "min_speedup"),
        ("required_tags: {owner: '['}", "not a regular expression"),
        ("schema_version: 2\nmin_speedup: 2", "schema_version"),
        ("a: b: c", "not YAML"),
        ("[1, 2]", "the file"),
        (None, "cannot be read"),
    ],
)
def test_a_policy_file_that_says_nothing_sound_is_refused(tmp_path, text, message):
    if text is not None:
        (tmp_path / "policy.yaml").write_text(text)
    with pytest.raises(InputError, match=message):
        read_policy(tmp_path / "policy.yaml")


def test_the_record_notices_a_changed_or_removed_event(store, tmp_path):
    for version in "123":
        promotion.promote(store, NAME, version, LENIENT, why=f"number {version}")
    files = sorted((tmp_path / "releases" / NAME).glob("*.json"))
    original = files[1].read_bytes()
    files[1].write_bytes(original.replace(b"number 2", b"number 9"))
    with pytest.raises(InputError, match="does not follow the one before"):
        promotion.history(store, NAME)
    files[1].unlink()
    with pytest.raises(InputError, match="changed or removed"):
        promotion.promote(store, NAME, "1", LENIENT, why="again")


def test_another_record_is_noticed(store, tmp_path, monkeypatch):
    promotion.promote(store, NAME, "1", LENIENT, why="the first")
    monkeypatch.setenv("FASTPRUNE_LEDGER", str(tmp_path / "elsewhere"))
    with pytest.raises(InputError, match="recorded elsewhere"):
        promotion.promote(store, NAME, "2", LENIENT, why="unaware")


def test_a_server_needs_a_record_of_the_teams(monkeypatch):
    monkeypatch.delenv("FASTPRUNE_LEDGER", raising=False)
    with pytest.raises(InputError, match="http:// cannot hold the record of releases; set FASTPRUNE_LEDGER"):
        ledger.open_ledger("http://127.0.0.1:5000")
    monkeypatch.setenv("FASTPRUNE_LEDGER", "mysql://ann:secret@host/db")
    with pytest.raises(InputError, match="^mysql:// cannot hold"):
        ledger.open_ledger("http://127.0.0.1:5000")


def test_a_first_promotion_that_was_cut_off_after_the_record_is_completed(store):
    promotion.promote(store, NAME, "1", LENIENT, why="the first")
    client = mlflow_store.connect(store)
    client.delete_registered_model_tag(NAME, record.ANCHOR)
    client.delete_registered_model_alias(NAME, "champion")
    promotion.promote(store, NAME, "2", LENIENT, why="better")
    assert aliases(store) == {"champion": "2", "previous": "1"}


@pytest.mark.parametrize("released", ["1", "12"])
def test_a_new_model_by_an_old_name_does_not_inherit_its_releases(store, made, released):
    for version in released:
        promotion.promote(store, NAME, version, LENIENT, why=f"number {version}")
    mlflow_store.connect(store).delete_registered_model(NAME)
    for note in ("three", "two"):
        metrics = json.loads((made / note / "metrics.json").read_text())
        registration.register(store, made / note, NAME, metrics)
    with pytest.raises(InputError, match="deleted and made again"):
        promotion.promote(store, NAME, "2", LENIENT, why="unaware")
    assert not aliases(store)


def test_a_record_that_cannot_be_written_or_is_locked_changes_nothing(store, tmp_path, monkeypatch):
    monkeypatch.setattr(ledger, "WAIT", 0.1)
    held = ledger.open_ledger(store)
    with held.lock(NAME), pytest.raises(InputError, match="another promotion has been under way"):
        promotion.promote(store, NAME, "1", LENIENT, why="in the way")
    (tmp_path / "file").touch()
    monkeypatch.setenv("FASTPRUNE_LEDGER", str(tmp_path / "file" / "releases"))
    with pytest.raises(InputError, match="releases cannot be recorded here .Not a directory"):
        promotion.promote(store, NAME, "1", LENIENT, why="nowhere")
    assert not aliases(store)


def test_a_version_is_proved(store):
    proof = verification.verify(store, NAME, "1")
    assert proof.files > 4 and proof.bytes > 1000 and proof.difference < 1e-5


@pytest.mark.parametrize(
    "change",
    [
        {"pruned": None},
        {"dense": "high"},
        {"pruned": float("nan")},
        {"latency_ms": {"dense": 1.0}},
        {"latency_ms": {"dense": 1.0, "pruned": 0}},
        {"latency_ms": 3.0},
    ],
)
def test_metrics_that_say_nothing_sound_are_refused(made, tmp_path, change):
    metrics = json.loads((made / "one" / "metrics.json").read_text()) | change
    with pytest.raises(InputError, match="no valid metric, dense, pruned and latency_ms"):
        registration.register(f"sqlite:///{tmp_path}/mlflow.db", made / "one", NAME, metrics)


def manifest_with(**changes):
    known = dict.fromkeys(("source_sha256", "sample_sha256", "evaluation_sha256"), "of it")
    known |= {"problem": "classification", "text_columns": ["text"], "max_length": 9, "versions": {}, "seed": 0}
    return json.dumps(known | changes)


@pytest.mark.parametrize(
    "content, message",
    [
        (None, "no readable manifest.json"),
        ("[]", "no readable manifest.json"),
        ('{"problem": "classification"}', "has no evaluation_sha256, max_length, sample_sha256, seed, source_sha256"),
        (manifest_with(text_columns="text"), "manifest.json: text_columns: Input should be a valid list"),
        (manifest_with(max_length="9"), "manifest.json: max_length: Input should be a valid integer"),
        (manifest_with(versions={"torch": [2]}), "manifest.json: versions.torch: Input should be a valid string"),
    ],
)
def test_a_folder_that_is_no_pruned_model_is_refused(tmp_path, content, message):
    (tmp_path / "model").mkdir()
    if content:
        (tmp_path / "model" / "manifest.json").write_text(content)
    with pytest.raises(InputError, match=message):
        registration.register(f"sqlite:///{tmp_path}/mlflow.db", tmp_path / "model", NAME, {})


@pytest.mark.parametrize(
    "damage, message",
    [
        (lambda root: spoil(root / "artifacts/one/model.safetensors"), "model.safetensors.*damaged"),
        (lambda root: (root / "artifacts/one/config.json").unlink(), "config.json.*missing"),
        (lambda root: spoil(root / "artifacts/record/evidence.json"), "evidence.json is missing or not what was"),
        (
            lambda root: spoil(root / "artifacts/record/artifact.json", b'"stage": "compress"', b'"stage": "compresS"'),
            "artifact.json is missing or not what was registered",
        ),
        (lambda root: spoil(root / "pyfunc_model.py"), "pyfunc_model.py is missing or not what was registered"),
        (lambda root: (root / "artifacts/record/artifact.json").unlink(), "artifact.json is missing or not"),
        (lambda root: spoil(root / "artifacts/model_inputs.py"), "model_inputs.py is missing or not what was"),
        (lambda root: run_other_code(root, "/pyfunc_model.py", "/other.py"), "other.py is missing or not what was"),
        (lambda root: run_other_code(root, "mlflow.pyfunc.loaders.code_model", "other"), "names other code"),
        (
            lambda root: run_other_code(root, "    model_code_path:", "    code: code\n    model_code_path:"),
            "other code",
        ),
    ],
)
def test_a_damaged_version_is_found(store, damage, message):
    client = mlflow_store.connect(store)
    model_id = client.get_model_version(NAME, "1").source.removeprefix("models:/")
    root = Path(re.sub("^file://", "", client.get_logged_model(model_id).artifact_location))
    kept = root.with_name("kept")
    shutil.copytree(root, kept)
    try:
        damage(root)
        with pytest.raises(InputError, match=message):
            verification.verify(store, NAME, "1")
    finally:
        shutil.rmtree(root)
        kept.rename(root)


def run_other_code(root, old, new):
    """Have the version served by a file of another name; the registered one lies there untouched."""
    assert old in (root / "MLmodel").read_text()
    spoil(root / "MLmodel", old.encode(), new.encode())
    (root / "other.py").write_text("raise SystemExit('hostile')")


def spoil(path, old=None, new=None):
    content = path.read_bytes()
    path.write_bytes(content.replace(old, new) if old else content[:-1] + bytes([content[-1] ^ 1]))


def test_the_commands(store, made, tmp_path, monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", store)
    (tmp_path / "policy.yaml").write_text("max_accuracy_drop: 1.0\nrequired_tags:\n  owner: '.+'\n")

    def run(*arguments, status=0):
        done = CliRunner().invoke(main, list(map(str, arguments)))
        assert done.exit_code == status, done.output
        return done.output

    assert run("register", made / "one", "--name", NAME).strip() == f"{NAME} version 1"
    promoted = run("promote", NAME, 1, "--policy", tmp_path / "policy.yaml", "--why", "the first")
    assert "passed  max_accuracy_drop" in promoted and f"{NAME} version 1 is the champion" in promoted
    run("promote", NAME, 3, "--policy", tmp_path / "policy.yaml", "--why", "smaller", "--by", "ann", "--expect", "1")
    refused = run("promote", NAME, 2, "--policy", tmp_path / "policy.yaml", "--why", "?", "--expect", "1", status=3)
    assert "champion moved from version 1 to version 3" in refused
    run("rollback", NAME, "--why", "slower")
    told = run("history", NAME)
    assert [line.split()[0] for line in told.splitlines()] == ["1", "2", "3"] and "ann: smaller" in told
    assert "have their digests" in run("verify", NAME)
    assert "name the compression's metrics.json" in run("register", tmp_path, "--name", NAME, status=2)
