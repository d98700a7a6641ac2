"""OpenVINO that refuses, fails, lacks memory or finds damaged files: no wrong picture, and the next is as before."""

import logging
import re

import pytest
import torch
from cpu_drawing import assert_close, cpu_unet_of, forget, graphed, states
from graph_recorder import draw
from vega_pack.vega import accelerate, cpu_decoder, cpu_unet, openvino_graph, tiny_decoder

pytestmark = [pytest.mark.model, pytest.mark.usefixtures("inference", "graph_cache", "reset_cpu_unet")]


def test_what_openvino_refuses_is_said_once(few_step, positive, monkeypatch, caplog):
    def refuse(*_):
        raise RuntimeError("Exception from src/core:\nno such operation")

    monkeypatch.setattr(openvino_graph, "CompiledGraph", refuse)
    with caplog.at_level(logging.WARNING):
        for seed in range(2):
            fast = graphed(few_step, positive)
            assert_close(draw(fast, positive, seed=seed), draw(few_step, positive, seed=seed))
        for _ in range(openvino_graph.MAX_FAILURES):
            states(fast, positive)
    assert cpu_unet_of(fast).failures.are_too_many
    told = [record.message for record in caplog.records if "OpenVINO" in record.message]
    assert told == ["Accelerate (Vega) draws without OpenVINO: Exception from src/core: no such operation"]


def test_a_failure_that_passes_changes_no_later_picture(nano, few_step, positive, monkeypatch, caplog):
    """UNet and decoder are called by OpenVINO again: pictures are what they were to the last bit."""
    fast, vae = graphed(few_step, positive), nano[2]
    tiny_decoder.decode(vae, torch.zeros(1, 4, 8, 8), None, torch.float32)
    if thread := cpu_decoder.cpu_decoders[vae.first_stage_model.taesd_decoder][torch.float32].thread:
        thread.join()

    def image():
        latents = draw(fast, positive)
        return latents, tiny_decoder.decode(vae, latents, None, torch.float32)

    def no_memory(*_):
        raise RuntimeError("std::bad_alloc")

    expected = image()
    for _ in range(openvino_graph.MAX_FAILURES + 1):
        with monkeypatch.context() as patched, caplog.at_level(logging.WARNING):
            patched.setattr(openvino_graph.CompiledGraph, "__call__", no_memory)
            tiny_decoder.decode(vae, expected[0], None, torch.float32)
            draw(fast, positive)  # in several steps, each of which may fail
        assert all(map(torch.equal, image(), expected))
    assert caplog.text.count("decodes without OpenVINO") == caplog.text.count("draws without OpenVINO") > 1


def test_where_memory_is_short_openvino_is_not_called(nano, few_step, positive, monkeypatch):
    """It crashes there with the whole process. It is called again when there is memory, however often there was none."""
    fast, vae = graphed(few_step, positive), nano[2]
    expected = draw(fast, positive)
    decoded = tiny_decoder.decode(vae, expected, None, torch.float32)
    with monkeypatch.context() as patched:
        patched.setattr(openvino_graph, "HEADROOM_BYTES", 2**60)
        for _ in range(openvino_graph.MAX_FAILURES + 1):
            assert states(fast, positive) == {"packed"}
            tiny_decoder.decode(vae, expected, None, torch.float32)
    assert torch.equal(draw(fast, positive), expected)
    assert torch.equal(tiny_decoder.decode(vae, expected, None, torch.float32), decoded)


@pytest.mark.soak
def test_out_of_memory_is_no_wrong_picture(few_step, positive, monkeypatch, caplog):
    """OpenVINO then gives empty outputs, without an error and from then on; the graph is made anew."""
    fast = graphed(few_step, positive)
    expected = draw(few_step, positive)
    (graph,) = cpu_unet_of(fast).graphs.values()
    request = graph.model.create_infer_request

    class Empty:
        def __init__(self):
            self.request = request()

        def infer(self, *args, **kwargs):
            return self.request.infer(*args, **kwargs)

        def get_output_tensor(self, index):
            return type("Tensor", (), {"data": self.request.get_output_tensor(index).data[..., :0]})

    monkeypatch.setattr(graph, "model", type("Model", (), {"create_infer_request": Empty, "release_memory": lambda: None}))
    with caplog.at_level(logging.WARNING):
        assert_close(draw(fast, positive), expected)
    assert "draws without OpenVINO: OpenVINO gave [1, 4, 8, 0] and not [1, 4, 8, 8]: is there memory enough?" in caplog.text
    assert_close(draw(fast, positive), expected)
    assert cpu_unet_of(fast).graphs
    assert graph not in cpu_unet_of(fast).graphs.values()


def test_damaged_weights_are_not_drawn_over(nano):
    """OpenVINO's ReLU makes zeros of NaN: a picture, where the host's decoder gives none."""
    vae = nano[2]
    weight = vae.first_stage_model.taesd_decoder[1].weight
    kept = weight[0, 0, 0, 0].item()
    weight.data = weight.data.clone()
    weight[0, 0, 0, 0] = float("nan")
    try:
        with pytest.raises(ValueError, match="its weights are damaged"):
            tiny_decoder.decode(vae, torch.zeros(1, 4, 8, 8), None, torch.float32)
    finally:
        weight[0, 0, 0, 0] = kept


def test_a_damaged_decoder_decodes_nothing(nano):
    """A bit of it is another; the file is made anew by the next process."""
    vae, z = nano[2], torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    decoder = vae.first_stage_model.taesd_decoder
    file = cpu_decoder.graph_file(decoder)
    cpu_decoder.convert(decoder, file)
    xml = file.read_text()
    file.write_text(xml.replace('auto_broadcast="numpy"', 'auto_broadcast="none"').replace('type="Multiply"', 'type="Add"'))
    assert file.read_text() != xml
    openvino_graph.verified_files.discard(file)
    cpu_decoder.cpu_decoders.clear()
    decoded = tiny_decoder.decode(vae, z, None, torch.float32)
    assert (decoded - tiny_decoder.decode(vae, z)).abs().max() < 1e-5
    assert not file.exists()
    cpu_decoder.cpu_decoders.clear()


@pytest.mark.soak
def test_a_file_of_other_contents_draws_nothing(few_step, positive):
    """A value within it is another: the first call is compared with the UNet's own."""
    fast = graphed(few_step, positive)
    file = cpu_unet.graph_file(few_step.model.model_config.unet_config)
    whole = file.read_text()
    assert 'epsilon="1e-05"' in whole or 'eps="' in whole
    file.write_text(re.sub(r'(eps(?:ilon)?)="[^"]*"', r'\1="0.5"', whole))
    forget(few_step)
    fast = accelerate.apply(few_step, "auto")
    assert_close(draw(fast, positive), draw(few_step, positive))
    assert not file.exists()


@pytest.mark.soak
def test_a_damaged_file_is_made_anew(few_step, positive, caplog):
    fast = graphed(few_step, positive)
    file = cpu_unet.graph_file(few_step.model.model_config.unet_config)
    whole = file.read_bytes()
    file.write_bytes(whole[: len(whole) // 2])
    forget(few_step)
    fast = accelerate.apply(few_step, "auto")
    assert_close(draw(fast, positive), draw(few_step, positive))
    assert not file.exists()
    forget(few_step)
    assert cpu_unet_of(graphed(few_step, positive)).graphs
