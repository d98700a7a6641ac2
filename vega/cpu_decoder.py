"""The tiny decoder (TAESD) on a processor: as an OpenVINO graph where that is installed, or in bf16."""

import copy
import threading
import weakref
from pathlib import Path

import torch

from . import openvino_graph
from .latent_formats import PIXELS_PER_LATENT

CHECKED_LATENTS = 16  # on a side, of the first picture
# decoder -> dtype -> how it is called; not on the decoder itself, which others may copy
cpu_decoders: weakref.WeakKeyDictionary = weakref.WeakKeyDictionary()


def decode(decoder: torch.nn.Module, z: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """[B, 4, h, w] scaled latents -> [B, 8h, 8w, 3] in fp32, with products in dtype (fp32: equal within rounding)."""
    calls = cpu_decoders.setdefault(decoder, {})
    if dtype not in calls or calls[dtype].weights != weights_fingerprint(decoder):
        calls[dtype] = CpuDecoder(decoder, dtype)
    return calls[dtype](decoder, z)


def begin_image(decoder: torch.nn.Module) -> None:
    """A picture begins, which is decoded in one way, in however many parts."""
    for calls in cpu_decoders.get(decoder, {}).values():
        calls.begin()


def weights_fingerprint(decoder: torch.nn.Module) -> list[tuple[int, float]]:
    """Where each weight lies, and its first value: what is changed in place is mostly seen."""
    return [(weight.data_ptr(), weight[(0,) * weight.ndim].item()) for weight in decoder.parameters()]


class CpuDecoder:
    """The calls of a decoder with the weights that it has now."""

    def __init__(self, decoder: torch.nn.Module, dtype: torch.dtype):
        self.dtype, self.weights = dtype, weights_fingerprint(decoder)
        self.graph = self.in_bf16 = self.thread = None
        self.failures = openvino_graph.FailureCounter("VAE Decode (Vega Tiny) decodes")
        self.can_be_graph = openvino_graph.INSTALLED and openvino_graph.are_finite(decoder.parameters())
        self.is_paused = not self.can_be_graph  # OpenVINO, until the next picture

    def begin(self) -> None:
        is_converting = self.thread is not None and self.thread.is_alive()
        self.is_paused = not self.can_be_graph or is_converting or self.failures.are_too_many

    def __call__(self, decoder: torch.nn.Module, z: torch.Tensor) -> torch.Tensor:
        try:
            self.graph = self.graph or self.make_graph(decoder, z)
            if self.graph and not self.is_paused:
                output = self.graph(picture_shape(z), z)
                self.failures.clear()
                return output
        except Exception as error:  # OpenVINO's, above all of memory; a broken installation, no home folder
            self.graph, self.is_paused = None, True
            self.failures.add(error)
        if self.dtype != torch.float32:
            self.in_bf16 = self.in_bf16 or copy.deepcopy(decoder).to(self.dtype)
            decoder = self.in_bf16
        return channels_last(decoder, z.to(self.dtype, memory_format=torch.channels_last)).float()

    def make_graph(self, decoder: torch.nn.Module, z: torch.Tensor) -> openvino_graph.CompiledGraph | None:
        """None while it is converted: pictures are decoded without it meanwhile."""
        if self.is_paused:
            return None
        file = graph_file(decoder)
        if not file.is_file():
            self.thread = threading.Thread(target=self.convert, args=(decoder, file))
            self.thread.start()
            self.is_paused = True
            return None
        graph = openvino_graph.CompiledGraph(file, openvino_graph.clone_weights(decoder.parameters()), self.dtype)
        corner = z[:1, :, :CHECKED_LATENTS, :CHECKED_LATENTS].contiguous()
        graph.check(graph(picture_shape(corner), corner), channels_last(decoder, corner))
        return graph

    def convert(self, decoder: torch.nn.Module, file: Path) -> None:
        try:
            convert(decoder, file)
        except Exception as error:  # another version of OpenVINO, a full disk
            self.failures.add(error)


def picture_shape(z: torch.Tensor) -> tuple[int, ...]:
    batch, _, height, width = z.shape
    return batch, PIXELS_PER_LATENT * height, PIXELS_PER_LATENT * width, 3


def graph_file(decoder: torch.nn.Module) -> Path:
    """Where the graph of a decoder of this structure lies."""
    return openvino_graph.graph_path(repr(decoder))


def convert(decoder: torch.nn.Module, file: Path) -> None:
    """Writes the graph of a decoder of this structure, where it isn't on disk yet."""
    if file.is_file():
        return
    z = torch.zeros(1, decoder[1].in_channels, 8, 8)
    empty = copy.deepcopy(decoder).to("meta")
    openvino_graph.convert(file, empty, channels_last, {"z": (z, [-1, z.shape[1], -1, -1])})


def channels_last(decoder: torch.nn.Module, z: torch.Tensor) -> torch.Tensor:
    """[B, H, W, 3], as the host has its pictures."""
    return decoder(z).movedim(1, -1)
