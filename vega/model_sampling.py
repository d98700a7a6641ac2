"""The host's model sampling for each recipe: how noise goes onto a latent, and how the clean one comes from a prediction."""

import comfy.model_patcher
import comfy.model_sampling
import comfy_extras.nodes_model_advanced as host_lcm
import torch

from . import recipes, step_functions, timestep_grids

SIGMA_DATA = 0.5
TIMESTEP_SCALING = 10.0


class SigmasOnDeviceMixin:
    """Mixed into a discrete model sampling: its table of noise levels follows sigma onto its device."""

    def timestep(self, sigma: torch.Tensor) -> torch.Tensor:
        """The timestep of each noise level, looked up where sigma lies.

        The host's own takes sigma to the table, which it leaves on the CPU: there, every step would wait for the GPU twice.
        """
        if self.log_sigmas.device != sigma.device:
            self.to(sigma.device)
        return super().timestep(sigma)


class ConsistencyFunction(host_lcm.LCM):
    """The clean prediction of a consistency model is c_skip x + c_out x0, the identity at t = 0."""

    def calculate_denoised(self, sigma, model_output, model_input):
        """x0 [B, 4, h, w] from the predicted noise, as diffusers' LCMScheduler.step: c_skip meets the VP latent."""
        t = self.timestep(sigma) * TIMESTEP_SCALING
        c_skip = SIGMA_DATA**2 / (t**2 + SIGMA_DATA**2)
        c_out = t / (t**2 + SIGMA_DATA**2) ** 0.5
        sigma, c_skip, c_out = (v.view(-1, *[1] * (model_input.ndim - 1)) for v in (sigma, c_skip, c_out))
        return c_out * (model_input - sigma * model_output) + c_skip * model_input / (1 + sigma**2) ** 0.5


class LCMSampling(SigmasOnDeviceMixin, ConsistencyFunction, host_lcm.ModelSamplingDiscreteDistilled):
    """On the 50 timesteps of an LCM."""

    recipe = recipes.LCM


class ConsistencySampling(SigmasOnDeviceMixin, ConsistencyFunction, comfy.model_sampling.ModelSamplingDiscrete):
    """On all 1000 timesteps."""


class EpsilonSampling(SigmasOnDeviceMixin, comfy.model_sampling.ModelSamplingDiscrete, comfy.model_sampling.EPS):
    """x0 straight from the predicted noise."""


class EulerSampling(EpsilonSampling):
    """As diffusers' EulerDiscreteScheduler with timestep_spacing="trailing", which starts from sigma times noise."""

    def noise_scaling(self, sigma, noise, latent_image, max_denoise=False):
        return super().noise_scaling(sigma, noise, latent_image)


def from_recipe(recipe: recipes.Recipe, model_config) -> comfy.model_sampling.ModelSamplingDiscrete:
    """The model sampling that draws by this recipe, which it carries. model_config: the host's, with its noise schedule."""
    if recipe.step_function is step_functions.lcm:
        sampling = LCMSampling if recipe.timesteps is timestep_grids.lcm else ConsistencySampling
    else:
        sampling = EulerSampling if recipe.step_function is step_functions.euler else EpsilonSampling
    made = sampling(model_config)
    made.recipe = recipe
    return made


def carried_recipe(model: comfy.model_patcher.ModelPatcher) -> recipes.Recipe | None:
    """The recipe that a model is drawn by: LCM's for one that the host's ModelSamplingDiscrete made sample as such."""
    sampling = model.get_model_object("model_sampling")
    # By its name: the server loads the file of that node under another module's name, so its class is another one.
    is_hosts_lcm = any(base.__name__ == host_lcm.LCM.__name__ for base in type(sampling).__mro__)
    return getattr(sampling, "recipe", recipes.LCM if is_hosts_lcm else None)


def predicts_noise(sampling) -> bool:
    """Whether a model with this sampling predicts the noise, for which every recipe was made."""
    others = comfy.model_sampling.V_PREDICTION, comfy.model_sampling.X0
    return isinstance(sampling, comfy.model_sampling.EPS) and not isinstance(sampling, others)
