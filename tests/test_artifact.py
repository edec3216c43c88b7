"""The saved prompt: every number back, PEFT's logits equal to ours on a small T5, every damage refused."""

import json
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from transformers import T5Config, T5ForConditionalGeneration

from mpt.artifact import check_fits, load_prompt
from mpt.artifact.prompt_folder import FORMAT_VERSION, save_prompt
from mpt.prompt import MultitaskPromptEmbedding, MultitaskPromptTuningConfig
from mpt.prompt.extend import add_tasks

N, D = 4, 16
NAMES = ["sum", "mt", "dlg"]
SHAPES = {
    "product": {},
    "residual": {"form": "residual"},
    "additive": {"form": "additive"},
    "single": {"form": "single"},
    "independent": {"form": "independent"},
    "grouped product": {"num_groups": 2, "task_groups": [1, 0, 1]},
    "grouped residual": {"num_groups": 2, "task_groups": [1, 0, 1], "form": "residual"},
}


def make_prompt(**changes):
    values = {"num_virtual_tokens": N, "num_ranks": 2, "token_dim": D, "task_names": NAMES, "factor_std": 0.5}
    return MultitaskPromptEmbedding(MultitaskPromptTuningConfig(**(values | changes)))


def save(folder, prompt=None, **changes):
    prompt = make_prompt() if prompt is None else prompt
    weights = {name: 1.0 + position for position, name in enumerate(prompt.task_names)}
    values = {"task_weights": weights, "backbone": {"name": "tiny", "fingerprint": "f" * 64}}
    save_prompt(folder, prompt, **(values | changes))
    return prompt


@pytest.fixture(scope="module")
def backbone():
    torch.manual_seed(0)
    config = T5Config(
        vocab_size=30, d_model=D, d_kv=4, d_ff=32, num_layers=2, num_heads=4, decoder_start_token_id=0, pad_token_id=0
    )
    return T5ForConditionalGeneration(config).eval()


@pytest.mark.parametrize("shape", SHAPES)
def test_every_number_comes_back(tmp_path, shape):
    prompt = save(tmp_path / "prompt", make_prompt(**SHAPES[shape]))
    state = torch.random.get_rng_state()
    saved = load_prompt(tmp_path / "prompt")
    assert torch.equal(state, torch.random.get_rng_state())
    assert torch.equal(saved.prompt.prompts(), prompt.prompts())
    before, after = prompt.snapshot(), saved.prompt.snapshot()
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)
    for key in ("form", "num_groups", "task_groups", "num_ranks", "task_names", "task_type"):
        assert getattr(saved.prompt.config, key) == getattr(prompt.config, key)
    assert saved.task_names == NAMES
    assert saved.task_weights == {"sum": 1.0, "mt": 2.0, "dlg": 3.0}
    assert saved.backbone == {"name": "tiny", "fingerprint": "f" * 64}


@pytest.mark.filterwarnings("error::UserWarning")
@pytest.mark.parametrize("shape", SHAPES)
def test_peft_loads_our_folder_with_equal_logits(tmp_path, backbone, shape):
    peft = pytest.importorskip("peft")
    prompt = save(tmp_path / "prompt", make_prompt(**SHAPES[shape]))
    ids = torch.randint(1, 30, (5, 6))
    mask = torch.ones_like(ids)
    mask[0, 4:] = 0
    labels, task_ids = torch.randint(1, 30, (5, 3)), torch.tensor([2, 0, 1, 2, 0])
    with torch.no_grad():
        inputs = torch.cat([prompt(None, task_ids), backbone.shared(ids)], dim=1)
        full_mask = torch.cat([torch.ones(5, N, dtype=mask.dtype), mask], dim=1)
        ours = backbone(inputs_embeds=inputs, attention_mask=full_mask, labels=labels).logits
        model = peft.PeftModel.from_pretrained(backbone, tmp_path / "prompt").eval()
        theirs = model(input_ids=ids, attention_mask=mask, labels=labels, task_ids=task_ids).logits
    # The 1 of the residual form is added in another order.
    tolerance = 1e-5 if "residual" in shape else 0.0
    torch.testing.assert_close(ours, theirs, rtol=0, atol=tolerance)


def test_a_peft_adapter_is_read(tmp_path, backbone):
    peft = pytest.importorskip("peft")
    config = peft.MultitaskPromptTuningConfig(
        task_type="SEQ_2_SEQ_LM",
        num_virtual_tokens=N,
        num_tasks=2,
        num_ranks=3,
        num_transformer_submodules=1,
        base_model_name_or_path="google-t5/t5-small",
    )
    model = peft.get_peft_model(backbone, config)
    model.save_pretrained(tmp_path / "adapter")
    theirs = model.prompt_encoder["default"]
    saved = load_prompt(tmp_path / "adapter")
    task_ids = torch.tensor([1, 0])
    expected = theirs(torch.arange(N).expand(2, N), task_ids)
    assert torch.equal(saved.prompt(None, task_ids), expected)
    assert saved.task_names == ["task_0", "task_1"]
    assert saved.task_weights == {"task_0": 1.0, "task_1": 1.0}
    assert saved.backbone["fingerprint"] == ""


def test_adapter_saved_as_bin_is_read(tmp_path):
    prompt = save(tmp_path / "prompt")
    tensors = load_file(tmp_path / "prompt" / "adapter_model.safetensors")
    torch.save(tensors, tmp_path / "prompt" / "adapter_model.bin")
    (tmp_path / "prompt" / "adapter_model.safetensors").unlink()
    assert torch.equal(load_prompt(tmp_path / "prompt").prompt.prompts(), prompt.prompts())


def test_files_keys_and_shapes(tmp_path):
    save(tmp_path / "prompt", make_prompt(form="residual"))
    names = {path.name for path in (tmp_path / "prompt").iterdir()}
    assert names == {"adapter_config.json", "adapter_model.safetensors", "mpt.json"}
    with safe_open(tmp_path / "prompt" / "adapter_model.safetensors", framework="pt") as file:
        assert file.metadata() == {"format": "pt", "written_by": "mpt"}
        assert {name: tuple(file.get_tensor(name).shape) for name in file.keys()} == {  # noqa: SIM118 no mapping
            "prompt_embeddings": (N, D),
            "prefix_task_cols": (3, N, 3),
            "prefix_task_rows": (3, 3, D),
        }
    config = json.loads((tmp_path / "prompt" / "adapter_config.json").read_text())
    peft = pytest.importorskip("peft")
    assert set(config) <= set(peft.MultitaskPromptTuningConfig.__dataclass_fields__)
    assert (config["num_ranks"], config["num_transformer_submodules"]) == (3, 1)
    about = json.loads((tmp_path / "prompt" / "mpt.json").read_text())
    assert about["format_version"] == FORMAT_VERSION
    assert about["backbone"] == {"name": "tiny", "fingerprint": "f" * 64}


def test_run_folder_and_string_are_enough(tmp_path):
    prompt = save(tmp_path / "run" / "prompt")
    for folder in (tmp_path / "run", tmp_path / "run" / "prompt", str(tmp_path / "run")):
        assert torch.equal(load_prompt(folder).prompt.prompts(), prompt.prompts())


def test_saving_again_replaces_every_file(tmp_path):
    save(tmp_path / "prompt", make_prompt(num_groups=2))
    assert (tmp_path / "prompt" / "mpt.safetensors").is_file()
    prompt = save(tmp_path / "prompt", make_prompt(form="independent"))
    assert not (tmp_path / "prompt" / "mpt.safetensors").exists()
    assert torch.equal(load_prompt(tmp_path / "prompt").prompt.prompts(), prompt.prompts())
    assert [path.name for path in tmp_path.iterdir()] == ["prompt"]


def test_extended_prompt_is_saved_whole(tmp_path):
    prompt = make_prompt()
    add_tasks(prompt, ["new"])
    save(tmp_path / "prompt", prompt)
    saved = load_prompt(tmp_path / "prompt")
    assert saved.task_names == [*NAMES, "new"]
    assert torch.equal(saved.prompt.prompts(), prompt.prompts())


def test_target_starts_from_a_loaded_prompt_after_the_folder_is_gone(tmp_path):
    source = save(tmp_path / "run" / "prompt", make_prompt(form="residual"))
    saved = load_prompt(tmp_path / "run")
    config = MultitaskPromptTuningConfig(
        num_virtual_tokens=N,
        num_ranks=2,
        form="residual",
        task_names=["target"],
        prompt_tuning_init="EXACT_SOURCE_TASK",
        prompt_tuning_init_task="mt",
    )
    target = save(tmp_path / "target", MultitaskPromptEmbedding(config, torch.nn.Embedding(9, D), saved.prompt))
    (tmp_path / "run" / "prompt").rename(tmp_path / "moved")
    assert torch.equal(load_prompt(tmp_path / "target").prompt.prompts(), target.prompts())
    assert torch.equal(target.prompts()[0], source.prompts()[1])


def stand_in(name, fingerprint, token_dim, **settings):
    """What check_fits looks at of a backbone."""
    about = {"name": name, "fingerprint": fingerprint, **settings}
    return SimpleNamespace(name=name, fingerprint=fingerprint, token_dim=token_dim, describe=lambda: about)


def test_inputs_are_written_as_in_the_training(tmp_path):
    about = {"name": "lm", "fingerprint": "f" * 64, "separator": " = ", "chat_template": False}
    save(tmp_path / "prompt", backbone=about)
    saved = load_prompt(tmp_path / "prompt")
    check_fits(saved, stand_in("lm", "f" * 64, D, separator=" = ", chat_template=False))
    with pytest.raises(ValueError, match=r"trained with backbone\.separator=' = ', and it is 'x' here"):
        check_fits(saved, stand_in("lm", "f" * 64, D, separator="x", chat_template=False))
    with pytest.raises(ValueError, match=r"trained with backbone\.quantize=None, and it is 'nf4' here"):
        check_fits(saved, stand_in("lm", "f" * 64, D, separator=" = ", chat_template=False, quantize="nf4"))


FORMATS = sorted(path.parent for path in (Path(__file__).parent / "formats").glob("*/*/mpt.json"))


@pytest.mark.parametrize("folder", FORMATS, ids=lambda folder: f"{folder.parent.name}-{folder.name}")
def test_every_format_since_the_first_still_loads(folder):
    saved = load_prompt(folder)
    assert json.loads((folder / "mpt.json").read_text())["format_version"] == int(folder.parent.name)
    assert torch.equal(saved.prompt.prompts(), load_file(folder / "expected.safetensors")["prompts"])
    assert saved.task_weights == {"sum": 1.0, "mt": 2.0, "dlg": 0.5}


def test_fit_is_checked(tmp_path):
    save(tmp_path / "prompt")
    saved = load_prompt(tmp_path / "prompt")
    check_fits(saved, stand_in("tiny", "f" * 64, D))
    with pytest.raises(ValueError, match=r"trained with tiny and has token_dim 16, t5-small has 512; use a prompt"):
        check_fits(saved, stand_in("t5-small", "f" * 64, 512))
    with pytest.raises(ValueError, match=r"tiny, fingerprint ffff.*; other has other weights, fingerprint 0000"):
        check_fits(saved, stand_in("other", "0" * 64, D))


@pytest.mark.parametrize(
    ("weights", "message"),
    [
        ({"sum": 1.0}, "task_weights: is for sum; it must be for sum, mt, dlg"),
        (dict.fromkeys([*NAMES, "nl"], 1.0), "task_weights: is for sum, mt, dlg, nl"),
    ],
)
def test_weights_are_for_the_tasks(tmp_path, weights, message):
    with pytest.raises(ValueError, match=message):
        save(tmp_path / "prompt", task_weights=weights)
    assert list(tmp_path.iterdir()) == []


def test_broken_numbers_are_not_saved(tmp_path):
    prompt = make_prompt()
    with torch.no_grad():
        prompt.prefix_task_rows[1, 0, 0] = float("nan")
    with pytest.raises(ValueError, match="prefix_task_rows holds numbers that are not finite"):
        save(tmp_path / "prompt", prompt)


def test_folder_without_a_prompt(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"no saved prompt .*; give the folder of a finished run"):
        load_prompt(tmp_path)


def edit_json(name, **changes):
    def edit(folder):
        path = folder / name
        path.write_text(json.dumps(json.loads(path.read_text()) | changes))

    return edit


def edit_tensors(**changes):
    def edit(folder):
        tensors = load_file(folder / "adapter_model.safetensors") | changes
        kept = {name: tensor for name, tensor in tensors.items() if tensor is not None}
        save_file(kept, folder / "adapter_model.safetensors")

    return edit


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (lambda folder: (folder / "mpt.json").write_text("{"), r"mpt\.json: not JSON"),
        (lambda folder: (folder / "mpt.json").write_text("[]"), r"mpt\.json: not a JSON object"),
        (
            edit_json("mpt.json", format_version=99),
            "format_version is 99, of a newer mpt; this one reads 1 to 3, so upgrade it",
        ),
        (edit_json("mpt.json", format_version="1"), "format_version is '1'; this program reads 1 to 3"),
        (edit_json("mpt.json", task_names=["sum"]), r"names the tasks \['sum'\]; the tensors have 3"),
        (edit_json("mpt.json", task_names="sum"), "task_names is 'sum'; it must be a list"),
        (edit_json("mpt.json", task_weights={"sum": 1.0}), "names the tasks"),
        (edit_json("mpt.json", form="sum"), "form: unknown value 'sum'"),
        (edit_json("mpt.json", form="residual"), "the factors are a product, not 1 plus a product"),
        (edit_json("mpt.json", form="independent", task_groups=[0, 1, 2], num_groups=3), "not plain prompts"),
        (edit_json("mpt.json", num_ranks=5), "the tensors are .*; by mpt.json they must be"),
        (edit_json("mpt.json", task_groups=[0, 0, 4]), r"task_groups: is \[0, 0, 4\]"),
        (edit_json("mpt.json", backbone={}), "backbone is {}; it must have a name and a fingerprint"),
        (edit_json("adapter_config.json", peft_type="LORA"), "peft_type is 'LORA'"),
        (edit_json("adapter_config.json", num_transformer_submodules=2), "num_transformer_submodules is 2"),
        (edit_json("adapter_config.json", num_tasks=7), "by adapter_config.json they must have {'num_tasks': 7"),
        (edit_json("adapter_config.json", task_type=None), "task_type: unknown value None"),
        (edit_tensors(prefix_task_rows=None), "no tensor prefix_task_rows"),
        (edit_tensors(prompt_embeddings=torch.ones(N, D + 1)), r"with prompt_embeddings \(4, 17\)"),
        (lambda folder: (folder / "adapter_model.safetensors").write_bytes(b"x"), "not a file of tensors"),
    ],
)
def test_damage_is_refused(tmp_path, edit, message):
    save(tmp_path / "prompt")
    edit(tmp_path / "prompt")
    with pytest.raises(ValueError, match=message):
        load_prompt(tmp_path / "prompt")


def test_missing_tensors_are_refused(tmp_path):
    save(tmp_path / "prompt", make_prompt(num_groups=2))
    (tmp_path / "prompt" / "mpt.safetensors").unlink()
    with pytest.raises(FileNotFoundError, match=r"mpt\.safetensors: no such file"):
        load_prompt(tmp_path / "prompt")


@pytest.mark.parametrize(("old", "form"), [("none", "independent"), ("shared", "single")])
def test_old_names_of_forms_still_load(old, form, tmp_path):
    prompt = save(tmp_path, make_prompt(form=form))
    about = json.loads((tmp_path / "mpt.json").read_text())
    assert about["form"] == form
    (tmp_path / "mpt.json").write_text(json.dumps(about | {"form": old}))
    loaded = load_prompt(tmp_path).prompt
    assert loaded.config.form == form
    assert torch.equal(loaded.prompts(), prompt.prompts())
