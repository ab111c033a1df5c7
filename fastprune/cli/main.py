"""The command line: every command of fastprune, by name."""

from __future__ import annotations

import click

import fastprune
from fastprune.cli.group import LazyGroup

_CLUSTER = "fastprune.pipelines.cluster_cli"
_PIPELINE = "fastprune.cli.pipelines"
_RELEASES = "fastprune.cli.releases"
_CONTROL = "fastprune.cli.control"
_OVERVIEW = "fastprune.cli.overview"
_SERVED = "fastprune.cli.served"

COMMANDS = {
    "compress": ("fastprune.cli.compress", "compress", "Prune a model to a fraction of its MACs or latency."),
    "export": ("fastprune.cli.export", "export", "Write a model as ONNX Runtime or OpenVINO serve it, int8 if wished."),
    "bench": ("fastprune.cli.bench", "bench", "Measure dense, pruned and exported models side by side."),
    "profile": ("fastprune.cli.profile", "profile", "Measure the latency of a model's blocks on this device."),
    "run": (_PIPELINE, "run", "Run the pipeline of a configuration on this machine."),
    "compile": (_PIPELINE, "compile_command", "Write the pipeline of a configuration as YAML for Kubeflow."),
    "submit": (_CLUSTER, "submit", "Compile a configuration and run it on the cluster."),
    "schedule": (_CLUSTER, "schedule", "Compile a configuration and run it by its cron line."),
    "schedules": (_CLUSTER, "schedules", "The schedules on the cluster."),
    "enable": (_CLUSTER, "enable", "Let a schedule begin runs again."),
    "disable": (_CLUSTER, "disable", "Stop a schedule from beginning runs."),
    "unschedule": (_CLUSTER, "unschedule", "Delete a schedule; its runs stay."),
    "reproduce": ("fastprune.cli.reproduce", "reproduce", "Measure the paper's grid of models, tasks and budgets."),
    "stage": ("fastprune.cli.stage", "stage", "Run one task of a configuration, as Airflow and pods do."),
    "register": (_RELEASES, "register", "Make a pruned model a version of a registered model."),
    "promote": (_RELEASES, "promote", "Make a version the champion, if the policy lets it."),
    "policy": (_CONTROL, "policy", "Set and show the policy that promotions of a model are judged by."),
    "signing-key": (_CONTROL, "signing_key", "Make a key that measurements are signed with."),
    "approve": (_CONTROL, "approve", "Say that a version may be the champion."),
    "rollback": (_CONTROL, "rollback", "Make an earlier champion the champion again."),
    "freeze": (_CONTROL, "freeze", "Let no version be promoted."),
    "unfreeze": (_CONTROL, "unfreeze", "Let versions be promoted again."),
    "status": (_OVERVIEW, "status", "How a model stands: champion, policy, freeze, what was rolled back."),
    "list": (_OVERVIEW, "list_versions", "The versions of a model, or the models."),
    "compare": (_OVERVIEW, "compare", "Two versions side by side, on the same evaluation rows."),
    "follow": (_OVERVIEW, "follow", "Run a server for the champion, and again when it moves."),
    "kserve": (_SERVED, "kserve", "Print the InferenceService of a model's champion."),
    "triton": (_SERVED, "triton", "Put an exported model into a model repository of Triton."),
    "history": (_RELEASES, "history", "Every change of champion, and what was refused."),
    "sync": ("fastprune.cli.sync", "sync", "Send what could not be tracked, and close runs that were killed."),
    "verify": (_RELEASES, "verify", "Prove the digests and the logits of a version."),
}


@click.group(
    cls=LazyGroup, lazy=COMMANDS, context_settings={"help_option_names": ["-h", "--help"], "show_default": True}
)
@click.version_option(fastprune.__version__)
def main() -> None:
    """Structured post-training pruning of fine-tuned Transformer encoders."""
