"""Kubeflow components: one thin file a stage. The work is in fastprune.stages, tracking in fastprune.tracking.runs."""

import os
from functools import partial

from kfp import dsl

import fastprune

IMAGE = os.environ.get("FASTPRUNE_IMAGE", "fastprune:" + fastprune.__version__)
"""The image that the components run in on a cluster; it has fastprune and all it needs."""

# Nothing is installed when a step starts, on a cluster or here.
component = partial(dsl.component, base_image=IMAGE, packages_to_install=[], install_kfp_package=False)
