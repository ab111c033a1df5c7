"""Upload, run and schedule on a Kubeflow Pipelines service: what reaches it, and everything that is refused.

The service is the stand-in of kfp_server.py; no live cluster was used.
"""

import hashlib
import threading
import time

import pytest
import yaml
from kfp import compiler, dsl, kubernetes
from kfp_server import parse_package

from fastprune.errors import InputError
from fastprune.pipelines import cluster, service
from fastprune.pipelines.package import parse_arguments, read_package, without_caching

CRON = "0 0 2 * * *"


@dsl.component(base_image="fastprune:0.1.0", packages_to_install=[], install_kfp_package=False)
def step(number: int, text: str) -> int:
    return number


@dsl.pipeline(name="small")
def small(source: str, number: int = 1, ratio: float = 0.5, deep: bool = True, names: list = ["a"], more: dict = {}):
    """Two tasks, one of them in a loop."""
    first = step(number=number, text=source)
    kubernetes.add_node_selector(first, "gpu", "v100")
    with dsl.ParallelFor([1, 2]) as item:
        step(number=item, text=source)


@pytest.fixture
def package(tmp_path):
    compiler.Compiler().compile(small, str(tmp_path / "small.yaml"))
    return read_package(tmp_path / "small.yaml")


@pytest.fixture
def connection(server):
    return service.connect(server.url)


def plan(connection, package, **changes):
    return cluster.schedule(
        connection,
        package,
        **{"name": "nightly", "cron": CRON, "experiment": "reviews", "arguments": {"source": "m"}} | changes,
    )


def test_a_run_is_of_the_version_that_was_uploaded(server, connection, package, capsys):
    run_id, version = cluster.submit(
        connection,
        package,
        name="a run",
        experiment="reviews",
        arguments={"source": "models/a", "number": 3},
        service_account="runner",
    )
    [run] = server.runs.values()
    [experiment], [pipeline], [stored] = (
        things.values() for things in (server.experiments, server.pipelines, server.versions)
    )
    assert (run["run_id"], run["display_name"], run["service_account"]) == (run_id, "a run", "runner")
    assert run["runtime_config"]["parameters"] == {"source": "models/a", "number": 3}
    assert run["experiment_id"] == experiment["experiment_id"] and experiment["display_name"] == "reviews"
    assert run["pipeline_version_reference"] == {
        "pipeline_id": pipeline["pipeline_id"],
        "pipeline_version_id": stored["pipeline_version_id"],
    }
    assert version == cluster.Version(package.version, pipeline["pipeline_id"], stored["pipeline_version_id"], True)
    assert pipeline["display_name"] == "small" and stored["package"] == package.path.read_bytes()
    digest = hashlib.sha256(package.path.read_bytes()).hexdigest()
    assert stored["display_name"] == f"small-{digest[:16]}" and digest in stored["description"]
    assert capsys.readouterr().out == ""  # the client's own chatter


def test_only_a_changed_package_is_uploaded_again(server, connection, package, tmp_path):
    for _ in range(2):
        cluster.submit(connection, package, name="r", experiment="e", arguments={"source": "m"})
    assert len(server.versions) == 1 and len(server.runs) == 2 and len(server.experiments) == 1
    without_caching(package.path, tmp_path / "other.yaml")
    other = cluster.upload(connection, read_package(tmp_path / "other.yaml"))
    assert other.uploaded and len(server.versions) == 2 and len(server.pipelines) == 1


def test_a_version_on_a_later_page_is_found(server, connection, package, tmp_path):
    for number in range(5):
        plan(connection, package, name=f"s{number}")
    assert [found.name for found in cluster.schedules(connection)] == ["s0", "s1", "s2", "s3", "s4"]


def test_an_upload_that_broke_off_is_completed(server, connection, package):
    server.status_of["POST /pipelines/upload_version"] = 500
    with pytest.raises(InputError, match="500: told to answer 500"):
        cluster.upload(connection, package)
    server.status_of.clear()
    assert cluster.upload(connection, package).uploaded
    assert len(server.pipelines) == len(server.versions) == 1


def test_caching_reaches_into_loops(package, tmp_path):
    def cached(file):
        spec = parse_package(file.read_bytes())
        return {
            name: task.caching_options.enable_cache
            for component in (spec.root, *spec.components.values())
            for name, task in component.dag.tasks.items()
        }

    assert cached(package.path) == {"step": True, "for-loop-2": False, "step-2": True}
    without_caching(package.path, tmp_path / "off.yaml")
    assert cached(tmp_path / "off.yaml") == {"step": False, "for-loop-2": False, "step-2": False}
    (before, platform), (after, same) = (
        list(yaml.safe_load_all(file.read_text())) for file in (package.path, tmp_path / "off.yaml")
    )
    assert platform == same and before.keys() == after.keys()


def test_a_schedule_as_the_service_gets_it(server, connection, package):
    made, new = plan(connection, package, max_concurrency=2, service_account="runner")
    [run] = server.recurring_runs.values()
    [version] = server.versions
    assert new and run["recurring_run_id"] == made.id and run["display_name"] == "nightly"
    assert run["trigger"] == {"cron_schedule": {"cron": CRON}}
    assert (run["max_concurrency"], run["no_catchup"], run["mode"]) == ("2", True, "ENABLE")
    assert run["pipeline_version_reference"]["pipeline_version_id"] == version == made.version_id
    assert run["runtime_config"]["parameters"] == {"source": "m"} and run["service_account"] == "runner"
    assert server.experiments[run["experiment_id"]]["display_name"] == "reviews"
    disabled, _ = plan(connection, package, name="later", enabled=False, catchup=True)
    assert server.recurring_runs[disabled.id]["mode"] == "DISABLE" and disabled.enabled is False
    assert server.recurring_runs[disabled.id]["no_catchup"] is False


def test_the_same_schedule_again_changes_nothing(server, connection, package):
    first, _ = plan(connection, package)
    before = list(server.changes())
    assert plan(connection, package) == (first, False) and server.changes() == before


@pytest.mark.parametrize(
    "change",
    [
        {"cron": "0 0 3 * * *"},
        {"max_concurrency": 2},
        {"catchup": True},
        {"enabled": False},
        {"experiment": "other"},
        {"arguments": {"source": "other"}},
        {"service_account": "other"},
    ],
)
def test_another_schedule_of_the_name_is_refused_or_replaced(server, connection, package, change):
    first, _ = plan(connection, package)
    before = list(server.changes())
    with pytest.raises(InputError, match=f"has a schedule nightly that is not the same .{first.id}: {CRON[:7]}"):
        plan(connection, package, **change)
    assert server.changes() == before
    second, new = plan(connection, package, **change, replace=True)
    assert new and list(server.recurring_runs) == [second.id]


def test_a_schedule_of_a_changed_package_is_replaced(server, connection, package, tmp_path):
    plan(connection, package)
    without_caching(package.path, tmp_path / "other.yaml")
    other = read_package(tmp_path / "other.yaml")
    with pytest.raises(InputError, match="not the same"):
        plan(connection, other)
    assert len(server.versions) == 1
    made, _ = plan(connection, other, replace=True)
    assert server.versions[made.version_id]["display_name"] == other.version


def test_a_former_schedule_that_cannot_be_deleted_is_told_of(server, connection, package):
    first, _ = plan(connection, package)
    server.status_of[f"DELETE /recurringruns/{first.id}"] = 500
    with pytest.raises(InputError, match=f"unschedule {first.id}`, or both run"):
        plan(connection, package, max_concurrency=2, replace=True)


def test_schedules_are_switched_and_deleted_by_name_or_id(server, connection, package):
    first, _ = plan(connection, package)
    second, _ = plan(connection, package, name="weekly")
    cluster.set_enabled(connection, "nightly", False)
    assert [(found.name, found.enabled) for found in cluster.schedules(connection)] == [
        ("nightly", False),
        ("weekly", True),
    ]
    cluster.set_enabled(connection, second.id, False)
    cluster.set_enabled(connection, first.id, True)
    assert {id: run["status"] for id, run in server.recurring_runs.items()} == {
        first.id: "ENABLED",
        second.id: "DISABLED",
    }
    cluster.delete_schedule(connection, "weekly")
    assert list(server.recurring_runs) == [first.id]
    with pytest.raises(InputError, match="has no schedule weekly. There are: nightly"):
        cluster.delete_schedule(connection, "weekly")


def test_two_schedules_of_a_name_made_elsewhere(server, connection, package):
    first, _ = plan(connection, package)
    copy = server.recurring_runs[first.id] | {
        "recurring_run_id": "0-copy",
        "trigger": {"periodic_schedule": {"interval_second": "60"}},
    }
    server.recurring_runs["0-copy"] = copy
    with pytest.raises(InputError, match=f"2 schedules nightly. Give the id of one: 0-copy, {first.id}"):
        cluster.set_enabled(connection, "nightly", False)
    assert {found.cron for found in cluster.schedules(connection)} == {CRON, "every 60 s"}
    plan(connection, package, replace=True)
    assert len(server.recurring_runs) == 1


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"cron": "0 2 * * *"}, "5 fields, not 6"),
        ({"max_concurrency": 0}, "max_concurrency is 0; the service takes 1 to 10"),
        ({"max_concurrency": 11}, "max_concurrency is 11"),
        ({"arguments": {}}, "argument source is missing: the pipeline small takes deep, more, names, number"),
        ({"arguments": {"source": "m", "sorce": "m"}}, "argument sorce is unknown"),
        ({"arguments": {"source": 1}}, "argument source: 1 is not text"),
        ({"arguments": {"source": "m", "number": 1.5}}, "argument number: 1.5 is not a whole number"),
        ({"arguments": {"source": "m", "number": True}}, "argument number: True is not a whole number"),
        ({"arguments": {"source": "m", "ratio": "x"}}, "argument ratio: 'x' is not a number"),
        ({"arguments": {"source": "m", "deep": 1}}, "argument deep: 1 is not true or false"),
        ({"arguments": {"source": "m", "names": "a"}}, "argument names: 'a' is not a list"),
        ({"arguments": {"source": "m", "more": []}}, "argument more: .. is not a mapping"),
    ],
)
def test_what_is_wrong_is_refused_before_the_service_is_asked(server, connection, package, changes, message):
    asked = list(server.asked)
    with pytest.raises(InputError, match=message):
        plan(connection, package, **changes)
    assert server.asked == asked


def test_arguments_from_text(package):
    texts = ["source=a=b", "number=3", "ratio=1e-3", "deep=false", 'names=["x"]', "more={}"]
    assert parse_arguments(package, texts) == {
        "source": "a=b",
        "number": 3,
        "ratio": 1e-3,
        "deep": False,
        "names": ["x"],
        "more": {},
    }
    for text, message in (("source", "write it as NAME=VALUE"), ("number=x", "'x' is not a whole number")):
        with pytest.raises(InputError, match=message):
            parse_arguments(package, ["source=m", text])


@pytest.mark.parametrize("content", ["", "a: [", "- 1", "text", "unknown: field", "components: 1"])
def test_what_is_no_compiled_pipeline(tmp_path, content):
    (tmp_path / "p.yaml").write_text(content)
    with pytest.raises(InputError, match="p.yaml: not a compiled pipeline"):
        read_package(tmp_path / "p.yaml")


@pytest.mark.parametrize(
    "status, message",
    [
        (400, "refused .400: told to answer 400"),
        (401, "does not know who you are .401.*KF_PIPELINES_TOKEN"),
        (403, "does not permit it .403: told to answer 403.*kubeflow-pipelines-edit"),
        (404, "has no such thing .404: told to answer 404"),
        (409, "refused .409"),
        (500, "failed .500: told to answer 500.*ml-pipeline"),
        (503, "failed .503"),
    ],
)
def test_refusals_of_the_service_name_it_and_the_remedy(server, connection, package, status, message):
    server.status = status
    for act in (
        lambda: service.connect(server.url),
        lambda: plan(connection, package),
        lambda: cluster.submit(connection, package, name="r", experiment="e", arguments={"source": "m"}),
        lambda: cluster.schedules(connection),
        lambda: cluster.set_enabled(connection, "n", True),
    ):
        with pytest.raises(InputError, match=f"{server.url} {message}"):
            act()
    server.status = 0
    server.status_of = {"POST /runs": status, "POST /recurringruns": status}
    asked = len(server.asked)
    with pytest.raises(InputError, match=f"{server.url} {message}"):
        cluster.submit(connection, package, name="r", experiment="e", arguments={"source": "m"})
    assert server.asked[asked:].count(("POST", "/runs")) == 1  # a second try might start a second run


def test_a_login_page_is_not_an_empty_answer(server, connection):
    server.login_page = True
    for act in (lambda: cluster.schedules(connection), lambda: service.connect(server.url)):
        with pytest.raises(InputError, match=f"{server.url} answers with a page.*KF_PIPELINES_COOKIES"):
            act()


def test_a_server_that_is_away_or_silent_is_given_up(server, connection, package, monkeypatch):
    monkeypatch.setattr(service, "TIMEOUT", (0.1, 0.1))
    server.silent.set()
    answer_after_all = threading.Timer(10, server.silent.clear)  # without a limit it fails, and does not hang
    answer_after_all.start()
    begin = time.monotonic()
    for act in (lambda: service.connect(server.url), lambda: cluster.schedules(connection)):
        with pytest.raises(InputError, match=f"{server.url} does not answer .ReadTimeoutError.*--host"):
            act()
    assert time.monotonic() - begin < 5
    answer_after_all.cancel()
    server.silent.clear()
    for host in ("http://127.0.0.1:9", "http://nowhere.invalid", "http://[wrong"):
        with pytest.raises(InputError, match="does not answer"):
            service.connect(host)


def test_who_one_is(server, tmp_path, monkeypatch):
    server.token = "secret"
    with pytest.raises(InputError, match="does not know who you are"):
        service.connect(server.url)
    assert service.connect(server.url, token="secret").host == server.url
    (tmp_path / "token").write_text("secret\n")
    monkeypatch.setenv("KF_PIPELINES_SA_TOKEN_PATH", str(tmp_path / "token"))
    monkeypatch.setenv("KF_PIPELINES_ENDPOINT", server.url)
    connection = service.connect()
    assert connection.host == server.url and cluster.schedules(connection) == []
    (tmp_path / "token").write_text("renewed\n")
    server.token = "renewed"
    assert cluster.schedules(connection) == []
    monkeypatch.setenv("KF_PIPELINES_SA_TOKEN_PATH", str(tmp_path / "gone"))
    with pytest.raises(InputError, match="KF_PIPELINES_SA_TOKEN_PATH: .*gone is no file"):
        service.connect()


def test_a_service_with_several_users_wants_a_namespace(server, package):
    server.multi_user = True
    with pytest.raises(InputError, match="name your namespace with --namespace"):
        service.connect(server.url)
    connection = service.connect(server.url, namespace="team-a")
    cluster.submit(connection, package, name="r", experiment="e", arguments={"source": "m"})
    plan(connection, package)
    things = [*server.experiments.values(), *server.pipelines.values()]
    assert {thing["namespace"] for thing in things} == {"team-a"}
    assert cluster.upload(service.connect(server.url, namespace="team-b"), package).uploaded
    assert len(server.pipelines) == 2


def test_two_uploads_at_once_leave_one_version(server, package):
    connections = [service.connect(server.url) for _ in range(4)]
    refused = []

    def act(connection):
        try:
            cluster.upload(connection, package)
        except InputError as error:
            refused.append(str(error))

    threads = [threading.Thread(target=act, args=(connection,)) for connection in connections]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert all("already exists" in text for text in refused)
    assert len(server.pipelines) == len(server.versions) == 1
