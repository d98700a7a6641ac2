"""The benchmark: what it counts, how it reports, and its graphs on the running server."""

import io
import json

import pytest
import torch
from PIL import Image

from bench import host_costs, machine, report, results, roofline, rounds, served, stages, variants, weights
from bench.__main__ import measure
from bench.machine import Case

RATES = roofline.Rates(flop_per_second=1e9, bytes_per_second=1e8)


def test_a_product_counts_flop_and_bytes():
    """A product counts its FLOP, each of its inputs once, and its output."""
    layer = torch.nn.Linear(8, 16, bias=False, device="meta")
    (product,) = roofline.count_operations(layer, torch.empty(4, 8, device="meta"))
    assert product == roofline.Operation(flop=2 * 4 * 8 * 16, bytes_moved=4 * (4 * 8 + 8 * 16 + 4 * 16))


def test_views_are_free_and_an_expanded_tensor_is_what_it_stores():
    class Stretched(torch.nn.Module):
        def forward(self, x):
            return x.reshape(1, 4).expand(1000, 4).T.sum(1)

    assert roofline.count_operations(Stretched(), torch.empty(2, 2, device="meta")) == [
        roofline.Operation(flop=0, bytes_moved=4 * 4 + 4 * 4)
    ]


def test_attention_is_one_operation():
    """Attention counts as one operation, which never writes its scores."""

    class Attention(torch.nn.Module):
        def forward(self, q, k, v):
            return torch.nn.functional.scaled_dot_product_attention(q, k, v)

    inputs = [torch.empty(1, 2, 256, 64, device="meta") for _ in range(3)]
    operations = [op for op in roofline.count_operations(Attention(), *inputs) if op.flop]
    assert [op.flop for op in operations] == [2 * 2 * 2 * 256 * 256 * 64]
    assert operations[0].bytes_moved < 5 * 4 * 2 * 256 * 64


def test_the_slower_of_computing_and_moving_counts():
    """Each operation takes the longer of its time to compute and its time to move."""
    computing, moving = roofline.Operation(flop=10**9, bytes_moved=1), roofline.Operation(flop=1, bytes_moved=10**8)
    assert roofline.roofline_seconds([computing, moving], RATES) == pytest.approx(2.0)


@pytest.mark.parametrize(("size", "tera"), [(512, 0.663), (1024, 2.82)])
def test_a_call_of_segmind_vega_has_its_known_flop(size, tera):
    operations = roofline.count_unet_call(weights.vega_modules()["unet"].config, size, batch=1)
    assert sum(op.flop for op in operations) / 1e12 == pytest.approx(tera, rel=0.002)


def test_a_tiny_decode_has_its_known_flop():
    assert sum(op.flop for op in roofline.count_tiny_decode(1024, batch=1)) / 1e12 == pytest.approx(0.565, rel=0.002)


def test_the_cases_differ_from_the_main_one_in_one_respect():
    main, *others = machine.cases((128, 192))
    assert {sum(a != b for a, b in zip(main, case, strict=True)) for case in others} == {1}
    assert {case.steps for case in others} | {4} == set(machine.STEPS)


def test_a_summary_is_in_milliseconds():
    found = rounds.summarize([0.1 * n for n in range(1, 22)])
    assert (found["n"], found["min_ms"]) == (21, pytest.approx(100))
    assert (found["p50_ms"], found["p95_ms"]) == (pytest.approx(1100), pytest.approx(2000))


def test_the_stages_add_up_to_the_whole():
    graph = {
        "a": {"class_type": "CLIPTextEncode"},
        "b": {"class_type": "VegaLCMSampler"},
        "c": {"class_type": "VegaSendImage"},
    }
    spans = [["node", "a", 1.0, 2.0], ["encoder", None, 1.0, 1.5], ["unet", None, 2.5, 4.0], ["unet", None, 4.0, 5.0]]
    spans += [["node", "b", 2.0, 6.0], ["node", "c", 7.0, 9.5], ["prompt", None, 0.5, 10.0]]
    found = stages.stage_seconds(graph, served.TimedPrompt([b""], posted=0.0, arrived=9.0), spans)
    assert found == {
        "text": 1.0,
        "UNet": 2.5,
        "sampler": 1.5,
        "decode": 0.0,
        "to bytes": 2.0,
        "executor": 2.0,
        "UNet + decode": 2.5,
    }
    found = stages.overhead_by_stage(graph, spans)
    assert found == {"text": 0.5, "sampler": 1.5, "decode": 0.0, "to bytes": 2.5, "executor": 2.0}
    assert sum(found.values()) == 9.5 - 0.5 - 2.5


def run_of(parts, sizes, ours_ms):
    """A run as measure() gives it."""
    case = [128, 4, 1]
    ends = [
        dict(variant=name, case=case, first_ms=1.0, n=3, min_ms=1.0, p50_ms=ms, p95_ms=2 * ms)
        for name, ms in ((variants.ACCELERATED, ours_ms), (variants.CORE, 60.0))
    ]
    found = {
        "date": "today",
        "versions": {"torch": "2"},
        "parts": parts,
        "sizes": sizes,
        "load_average": [0.0, 0.1],
        "threads": 2,
    }
    found |= {
        "models_measured": "None.",
        "left_out": {"diffusers, max-autotune": "it needs a GPU"},
        "stages": [],
        "host": {},
        "loading": {variants.ACCELERATED: {"the first picture": 1.0}, variants.CORE: {"the first picture": 2.0}},
        "main_case": case,
    }
    found |= {"ends": ends, "models": [dict(variant=variants.OURS, case=case, ms=15.0)], "peaks": {}}
    return found | {"rates": RATES._asdict(), "roofline": [dict(case=case, ms=10.0, flop=1, bytes=1)]}


def test_a_run_replaces_an_earlier_one(tmp_path):
    """A run replaces an earlier one of the same parts and sizes, and no other."""
    for parts, sizes, ms in ((["ours"], [128], 20.0), (["ours"], [256], 25.0), (["ours"], [128], 30.0)):
        data, text, picture = results.write(run_of(parts, sizes, ms), tmp_path)
    runs = json.loads(data.read_text())["runs"]
    assert [(run["sizes"], run["ends"][0]["p50_ms"]) for run in runs] == [([256], 25.0), ([128], 30.0)]
    assert text.read_text().count("\n## ") == 2
    assert Image.open(picture).width > 1000


def test_the_report_has_ratios_and_what_was_left_out():
    """The report has the ratios to the others and to the roofline, and what was left out."""
    run = run_of(["ours", "core"], [128], 20.0)
    assert report.ratios_table(run).rows == [[variants.CORE, "3.00"]]
    assert report.loading_table(run).rows == [["the first picture", "1.00", "2.00"]]
    assert report.models_table(run).rows == [[variants.OURS, "15.0 (1.50)"], ["roofline", "10.00"]]
    for text in (report.render_terminal(run), report.render_markdown({"machine": machine.description(), "runs": [run]})):
        assert "Left out: diffusers, max-autotune, because it needs a GPU." in text
        assert "20.0 / 40.0" in text


@pytest.fixture(scope="module")
def models():
    return weights.prepare_models()


@pytest.fixture(scope="module")
def served_models(server, models):
    """The models on the running server, and nothing of them left there for other tests."""
    links = {}
    for file in (models.base / "models").glob("*/*"):
        links[server.base / "models" / file.parent.name / file.name] = file
    for link, file in links.items():
        link.symlink_to(file)
    yield models
    for link in links:
        link.unlink()


@pytest.mark.parametrize("name", [variants.OURS, variants.ACCELERATED, variants.CORE])
def test_every_graph_draws_its_pictures_on_the_server(client, served_models, name):
    case = Case(64, 1, 2)
    drawing = variants.GraphVariant(name, served_models, client).draw(case, "night, desert", 1)
    rounds.check_pictures(drawing.pictures, case, name)
    expected = "PNG" if name == variants.CORE else "JPEG"
    assert [Image.open(io.BytesIO(picture)).format for picture in drawing.pictures] == [expected] * 2


def test_an_empty_picture_is_no_result():
    black = io.BytesIO()
    Image.new("RGB", (64, 64)).save(black, "PNG")
    with pytest.raises(RuntimeError, match="empty picture"):
        rounds.check_pictures([black.getvalue()], Case(64, 1, 1), variants.CORE)


def test_what_cannot_be_measured_is_left_out_with_its_reason():
    jobs, left_out = rounds.plan_jobs(["diffusers, reduce-overhead", variants.OURS], machine.cases((128,)))
    assert ("diffusers, reduce-overhead" in left_out) == (not machine.GPU)
    assert (variants.OURS, Case(128, 8, 1)) in jobs


@pytest.mark.model
@pytest.mark.soak
def test_a_prompt_costs_the_host_at_most_6_ms_beyond_the_models(models, record_property):
    found = stages.measure_host_overhead(models, rounds.unique_prompts())
    record_property("prompt_ms", round(found["prompt_ms"], 2))
    assert found["prompt_ms"] <= host_costs.BUDGETS["prompt_ms"]


@pytest.mark.model
@pytest.mark.soak
def test_the_decode_tail_takes_at_most_a_quarter_of_core_s(record_property):
    found = host_costs.measure_decode_tail()
    record_property("decode_tail_ratio", round(found["decode_tail_ratio"], 3))
    assert found["decode_tail_ratio"] <= host_costs.BUDGETS["decode_tail_ratio"]


@pytest.mark.model
@pytest.mark.soak
def test_importing_the_pack_takes_at_most_60_ms(record_property):
    found = host_costs.measure_pack_import()
    record_property("import_ms", round(found["import_ms"], 1))
    assert found["import_ms"] <= host_costs.BUDGETS["import_ms"]


@pytest.mark.model
@pytest.mark.soak
def test_a_reduced_run_measures_everything(tmp_path):
    sizes = (128,)
    run = measure(["ours", "core", "diffusers", "host", "loading"], sizes, seconds=1)
    assert {row["variant"] for row in run["ends"]} == {
        *variants.VARIANT_GROUPS["ours"],
        *variants.VARIANT_GROUPS["core"],
        "diffusers",
    }
    assert run["loading"].keys() == {variants.ACCELERATED, variants.CORE}
    assert len(run["roofline"]) == len(machine.cases(sizes))
    assert all(row["UNet + decode"] > row["UNet"] > 0 for row in run["stages"])
    assert not run["left_out"] and run["peaks"].keys() >= {variants.OURS, variants.CORE, "diffusers"}
    results.write(json.loads(json.dumps(run)), tmp_path)
