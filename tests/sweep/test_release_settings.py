"""``release:`` in a configuration: what could promote nothing is refused before anything runs."""

import pytest
from click.testing import CliRunner
from tiny_config import SWEEP

from fastprune.cli.main import main
from fastprune.errors import InputError
from fastprune.sweep.config import Sweep
from fastprune.sweep.graph import nodes, parameters
from fastprune.sweep.reading import parse_config
from fastprune.sweep.release import SECRET, check_release, pod_environment

POLICY = "max_accuracy_drop: 0.02\nrequired_tags: {owner: 'team-.*'}\n"
SERVER = {"MLFLOW_TRACKING_URI": "http://mlflow:5000"}
WITH_RECORD = SERVER | {"FASTPRUNE_LEDGER": "s3://team/releases"}


@pytest.fixture
def read(tmp_path):
    (tmp_path / "policy.yaml").write_text(POLICY)

    def read(release, more=""):
        return parse_config(f"{SWEEP}release: {release}\n{more}", tmp_path / "sweep.yaml")

    return read


@pytest.mark.parametrize(
    "release, environment, message",
    [
        ("{policy: policy.yaml}", {}, "no MLflow is named; give tracking.uri"),
        ("{policy: policy.yaml}", SERVER, "http:// cannot hold the record of releases; give FASTPRUNE_LEDGER"),
        ("{policy: policy.yaml, required: true}", WITH_RECORD, "release.tags: owner is missing"),
        (
            "{policy: policy.yaml, required: true, tags: {owner: nobody}}",
            WITH_RECORD,
            "release.tags.owner: 'nobody' is not what the policy requires, 'team-.*'",
        ),
    ],
)
def test_a_policy_that_could_promote_nothing_is_refused(read, release, environment, message):
    with pytest.raises(InputError, match=message.replace(".", r"\.").replace("*", r"\*")):
        check_release(read(release), environment)


@pytest.mark.parametrize(
    "policy, message",
    [
        ("signed_by: ['ed25519:{}']", "signed_by asks for a signature, and there is no key to sign with"),
        ("approvals: 2", "asks for approvals, which nobody can give before the gate judges"),
    ],
)
def test_what_no_gate_could_promote_is_not_required(read, tmp_path, policy, message):
    (tmp_path / "policy.yaml").write_text(policy.replace("{}", "A" * 43 + "=") + "\n")
    with pytest.raises(InputError, match=message):
        check_release(read("{policy: policy.yaml, required: true}"), WITH_RECORD)
    check_release(read("{policy: policy.yaml}"), WITH_RECORD)
    if "signed" in policy:
        check_release(read("{policy: policy.yaml, required: true}"), WITH_RECORD | {"FASTPRUNE_SIGNING_KEY": SECRET})


@pytest.mark.parametrize("tag", ["metric", "seed", "promotion.by", "kfp.pipeline_job"])
def test_a_tag_of_fastprunes_own_is_refused(read, tag):
    for release in (f"{{tags: {{{tag}: mine}}}}", f"{{policy: policy.yaml, tags: {{{tag}: mine}}}}"):
        with pytest.raises(InputError, match=f"release.tags: the tag {tag} is written by fastprune itself"):
            check_release(read(release), WITH_RECORD)


def test_one_that_could_is_taken(read):
    check_release(read("{model_name: ''}"), {})  # no policy: nothing to promote
    check_release(read("{policy: policy.yaml}"), WITH_RECORD)  # somebody may give the tag and promote later
    check_release(read("{policy: policy.yaml, required: true, tags: {owner: team-a}}"), WITH_RECORD)
    for uri in ("sqlite:////data/mlflow.db", "postgresql+psycopg2://db/mlflow"):
        check_release(read("{policy: policy.yaml}", f"tracking: {{uri: '{uri}'}}\n"), {})


def test_required_without_a_policy_is_refused_with_its_line(read):
    line = SWEEP.count("\n") + 1
    with pytest.raises(InputError, match=rf"line {line}: release\.required: there is no policy"):
        read("{required: true}")


def test_the_stages_get_what_it_says(read):
    sweep = read("{policy: policy.yaml, required: true, tags: {owner: team-a, size: 2}}")
    stages = {node.stage.name: parameters(sweep, node.model, node.stage) for node in nodes(sweep)}
    assert stages["register"]["tags"] == {"owner": "team-a", "size": "2"}
    assert stages["conclude"]["required"] and stages["conclude"]["last"]


def test_pods_have_the_variables_of_the_cluster_and_of_its_secrets(read):
    own = {"env": {"FASTPRUNE_LEDGER": "s3://team/releases"}, "secrets": [{"name": "m", "env": {"uri": "MLFLOW_URI"}}]}
    sweep = read("{policy: policy.yaml}")
    sweep = Sweep.model_validate(sweep.model_dump() | {"cluster": sweep.cluster.model_dump() | own})
    assert pod_environment(sweep) == {"FASTPRUNE_LEDGER": "s3://team/releases", "MLFLOW_URI": SECRET}


def test_compile_refuses_it(tmp_path):
    (tmp_path / "policy.yaml").write_text(POLICY)
    (tmp_path / "sweep.yaml").write_text(SWEEP + "release: {policy: policy.yaml}\n")
    output = tmp_path / "pipeline.yaml"
    done = CliRunner().invoke(main, ["compile", str(tmp_path / "sweep.yaml"), "--output", str(output)])
    assert done.exit_code == 2 and "no MLflow is named" in " ".join(done.output.split())
    assert not output.exists()
