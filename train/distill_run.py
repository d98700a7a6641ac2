"""`python -m train distill`: a base with blocks left out, taught by the whole base to draw as it does."""

from argparse import Namespace
from functools import partial

from diffusers import DDPMScheduler

from . import block_plan, student_unet
from .cache import key_of
from .diffusion import NOISE_SCHEDULE, prepare_for_device
from .distillation import distillation_loss
from .full_unet import FullUnetRun, start
from .student_unet import on_meta


def run(options: Namespace) -> None:
    plan = block_plan.read(options.to)
    training = start(options)
    student = student_unet.make_student(plan, training.base)
    if options.feature_weight:
        student_unet.check_features(plan, student, training.base)
    options.to = f"{plan.name} {key_of(plan)[:12]}"  # in the settings, so that a plan can't change within a run
    kept, whole = (on_meta(config).num_parameters() for config in (student.config, training.base.config))
    if training.is_main:
        print(f"{plan.name}: {kept / 1e6:.1f} of {whole / 1e6:.1f} million parameters are kept", flush=True)
    scheduler = DDPMScheduler(**NOISE_SCHEDULE)

    def prepare():
        unet = prepare_for_device(student_unet.load(student, training.base, training.trainable_dtype), training.device)
        return unet, partial(
            distillation_loss,
            unet,
            training.unet(),
            student.features,
            scheduler,
            output_weight=options.output_weight,
            feature_weight=options.feature_weight,
        )

    FullUnetRun(training, kept, whole * training.dtype.itemsize).run(prepare)
