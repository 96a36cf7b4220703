"""SDAConfig: who overrides whom, what is refused and in which words, and what stays RecBole's."""

import copy
import re
import sys
from pathlib import Path

import pytest
import recbole
import yaml
from recbole.config import Config
from recbole.utils import ModelType

from recbole_sda import config_checks, key_kinds
from recbole_sda.config import SDAConfig, find_model, known_keys
from recbole_sda.defaults import properties_folder, read_properties, read_yaml
from recbole_sda.errors import SDAError
from recbole_sda.model import OWN_MODELS
from recbole_sda.variants import VARIANTS, variant_name

RECBOLE = Path(recbole.__file__).parent / "properties"
NO_SAMPLING = {
    "distribution": "none",
    "sample_num": "none",
    "alpha": "none",
    "dynamic": False,
    "candidate_num": 0,
}


@pytest.fixture(autouse=True)
def elsewhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def configure(*argv, model="SASRec", dataset="demo", files=None, **values):
    return SDAConfig(model, dataset, files, values, argv=argv)


def refused(*argv, **values) -> str:
    with pytest.raises(SDAError) as caught:
        configure(*argv, **values)
    return str(caught.value)


# --- who overrides whom ---


def test_priority(tmp_path):
    own = tmp_path / "dataset" / "shop" / "shop.yaml"
    own.parent.mkdir(parents=True)
    own.write_text("lora_alpha: 1\nalign_temperature: 1\nmax_pixels: 1001\nalign_steps: 1\nepochs: 1\n")
    file = tmp_path / "a.yaml"
    file.write_text("lora_alpha: 2\nalign_temperature: 2\nmax_pixels: 1002\nepochs: 2\n")
    later = tmp_path / "b.yaml"
    later.write_text("max_pixels: 1003\nlora_alpha: 3\nalign_temperature: 3\n")
    config = configure(
        "--lora_alpha=5", dataset="shop", files=[str(file), str(later)], lora_alpha=4, align_temperature=4
    )
    assert config["lora_alpha"] == 5  # the command line
    assert config["align_temperature"] == 4  # the dictionary
    assert config["max_pixels"] == 1003  # the later file
    assert config["epochs"] == 2  # the file
    assert config["align_steps"] == 1  # the dataset's own
    assert config["lora_r"] == 8  # properties/overall.yaml
    assert config["learning_rate"] == 0.001  # RecBole
    assert config.given("align_temperature")
    assert not config.given("align_steps")
    assert not config.given("lora_r")


def test_properties_of_model_and_dataset_go_over_the_overall_ones():
    overall = read_yaml(properties_folder() / "overall.yaml")
    demo = read_yaml(properties_folder() / "dataset" / "demo.yaml")
    vbpr = read_yaml(properties_folder() / "model" / "VBPR.yaml")
    assert demo["backbone"] != overall["backbone"]
    config = configure(model="VBPR")
    assert config["backbone"] == demo["backbone"]
    assert configure(dataset="shop")["backbone"] == overall["backbone"]
    assert {key: config[key] for key in vbpr} == vbpr


def test_what_suits_a_backbone_gives_way_to_the_dataset_and_to_the_user(tmp_path):
    tiny, overall = read_properties("backbone", "tiny"), read_properties("overall")
    assert tiny["align_steps"] != overall["align_steps"]
    folder = tmp_path / "dataset" / "shop"
    folder.mkdir(parents=True)

    def steps(**values):
        return configure(dataset="shop", **values)["align_steps"]

    assert steps() == overall["align_steps"]
    assert steps(backbone="tiny") == tiny["align_steps"]
    (folder / "shop.yaml").write_text("backbone: tiny\n")
    assert steps() == tiny["align_steps"]
    (folder / "shop.yaml").write_text("backbone: tiny\nalign_steps: 7\n")
    assert steps() == 7
    assert steps(align_steps=9) == 9


def test_the_datasets_own_file_is_looked_up_where_data_path_says(tmp_path):
    own = tmp_path / "elsewhere" / "shop" / "shop.yaml"
    own.parent.mkdir(parents=True)
    own.write_text("prompt_domain: film\n")
    assert configure("--data_path=elsewhere", dataset="shop")["prompt_domain"] == "film"
    assert configure(dataset="shop")["prompt_domain"] == "product"


def test_model_and_dataset_by_argument_file_dictionary_or_command_line(tmp_path):
    file = tmp_path / "a.yaml"
    file.write_text("model: BPR\ndataset: demo\n")
    for config in (
        SDAConfig("BPR", "demo"),
        SDAConfig(config_dict={"model": "BPR", "dataset": "demo"}),
        SDAConfig(config_file_list=[str(file)]),
        SDAConfig(argv=["--model=BPR", "--dataset=demo"]),
    ):
        assert (config["model"], config["dataset"]) == ("BPR", "demo")
        assert config["MODEL_TYPE"] == ModelType.GENERAL
        assert config.model_class is find_model("BPR")


def test_a_library_call_reads_no_command_line(monkeypatch):
    monkeypatch.setattr("sys.argv", ["pytest", "-x", "--epochs=1", "--epochs=2", "--model=BPR", "--nonsense=3"])
    config = configure()
    assert (config["epochs"], config["model"]) == (60, "SASRec")
    with pytest.raises(SyntaxError, match="duplicate"):  # stock RecBole reads them
        Config.__new__(Config)._load_cmd_line()


def test_what_was_given_is_not_changed():
    values = {"metrics": ["NDCG"], "eval_args": {"mode": "full"}, "modalities": "image,text", "epochs": "3"}
    before = copy.deepcopy(values)
    configure(**values)
    assert values == before


# --- how values are read ---


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1e-3", 1e-3),
        ("None", None),
        ("3", 3),
        ("True", True),
        ("[64, 32]", [64, 32]),
        ("{'a': 1}", {"a": 1}),
        ("[5,inf)", "[5,inf)"),
        ("1:30", "1:30"),
        ("a=b", "a=b"),
    ],
)
def test_text_reads_alike_from_the_command_line_and_a_dictionary(text, value):
    key = "clip_grad_norm"  # RecBole's own key, which we do not look into
    assert configure(f"--{key}={text}")[key] == value
    assert configure(**{key: text})[key] == value


@pytest.mark.parametrize("interval", ["[5,10]", "[5,inf)", "(5,10)"])
@pytest.mark.parametrize("key", ["user_inter_num_interval", "item_inter_num_interval"])
def test_an_interval_stays_text(key, interval):
    assert configure(f"--{key}={interval}")[key] == interval
    assert configure(**{key: interval})[key] == interval


@pytest.mark.parametrize(
    ("key", "text"),
    [
        ("prompt_text", "{fields}"),
        ("backbone_revision", "12e4567"),
        ("backbone", "2018"),
        ("prompt_image", "a: b"),
    ],
)
def test_text_stays_as_it_is_typed(key, text):
    assert configure(f"--{key}={text}")[key] == configure(**{key: text})[key] == text


@pytest.mark.parametrize("empty", ["None", "~", "null", ""])
def test_optional_text_may_be_empty(empty):
    assert configure(f"--backbone_revision={empty}")["backbone_revision"] is None
    assert "backbone=None must be text" in refused(f"--backbone={empty}")


@pytest.mark.parametrize("key", ["result_file", "prompt_domain", "features"])
def test_what_is_not_text_is_refused(key):
    assert f"{key}=5 must be text" in refused(**{key: 5})


@pytest.mark.parametrize("code", ["__import__('os').system('touch pwned')", "open('pwned', 'w')"])
def test_code_is_never_evaluated(code, tmp_path):
    file = tmp_path / "a.yaml"
    file.write_text(f'clip_grad_norm: "{code}"\n')
    configs = [
        configure(clip_grad_norm=code),
        configure(f"--clip_grad_norm={code}"),
        configure(files=[str(file)]),
    ]
    assert [config["clip_grad_norm"] for config in configs] == [code] * 3
    assert not (tmp_path / "pwned").exists()


def test_stock_recbole_evaluates_both(tmp_path, monkeypatch):
    """Else the test above could not fail."""
    code = "open('pwned','w').close()"
    stock = Config.__new__(Config)
    stock._load_variable_config_dict({"clip_grad_norm": code})
    assert (tmp_path / "pwned").exists()
    (tmp_path / "pwned").unlink()
    monkeypatch.setattr("sys.argv", ["run.py", f"--clip_grad_norm={code}"])
    stock._load_cmd_line()
    assert (tmp_path / "pwned").exists()


def test_lists_may_be_text_with_commas():
    config = configure("--modalities=text, image", "--text_fields=title", "--metrics=NDCG,Hit")
    assert config["modalities"] == ["text", "image"]
    assert config["text_fields"] == ["title"]
    assert config["metrics"] == ["NDCG", "Hit"]
    assert configure(compare=("ids", "sda"))["compare"] == ["ids", "sda"]
    assert configure("--compare=[ids, sda]")["compare"] == ["ids", "sda"]
    assert configure("--compare=ids")["compare"] == ["ids"]


@pytest.mark.parametrize("key", [*key_kinds.keys_of_type("list"), "metrics"])
@pytest.mark.parametrize("value", [5, True, [5], [["image"]], {"image": 1}])
def test_a_list_of_anything_but_names_is_refused(key, value):
    assert refused(**{key: value}).startswith(f"{key}={value!r}")


# --- arguments ---


@pytest.mark.parametrize("argument", ["epochs=3", "--epochs", "-epochs=3", "--=3", "epochs", ""])
def test_an_argument_that_is_none_is_refused(argument):
    assert refused(argument) == f"argument {argument!r} is not understood; write --key=value"


def test_a_key_given_twice_is_refused():
    message = refused("--epochs=3", "--seed=1", "--epochs=4")
    assert message == "--epochs is given twice: '3' and '4'; keep one"
    assert configure("--epochs=3", "--epochs=3")["epochs"] == 3


# --- keys ---


@pytest.mark.parametrize(
    ("key", "nearest"),
    [
        ("lora_rank", "lora_r"),
        ("epoch", "epochs"),
        ("temprature", "temperature"),
        ("Epochs", "epochs"),
        ("max_item_list_length", "MAX_ITEM_LIST_LENGTH"),
        ("backbonse", "backbone"),
    ],
)
def test_a_misspelt_key_names_the_nearest(key, nearest, tmp_path):
    file = tmp_path / "a.yaml"
    file.write_text(f"{key}: 3\n")
    for message in (refused(f"--{key}=3"), refused(**{key: 3}), refused(files=[str(file)])):
        assert message.startswith(f"key {key!r} is unknown; did you mean ")
        assert re.search(rf"\b{nearest}\b", message.partition("did you mean")[2])


def test_a_key_like_no_other():
    assert refused("--qqqqqqqq=3") == "key 'qqqqqqqq' is unknown; `--help` lists what is known"


def test_a_misspelt_key_in_the_datasets_own_file_names_the_file(tmp_path):
    own = tmp_path / "dataset" / "shop" / "shop.yaml"
    own.parent.mkdir(parents=True)
    own.write_text("prompt_domian: film\n")
    message = refused(dataset="shop")
    assert "shop.yaml: key 'prompt_domian' is unknown; did you mean prompt_domain" in message


def test_a_key_of_another_model_is_an_error_when_typed():
    assert "'n_heads' is of other models, BPR does not read it" in refused("--n_heads=1", model="BPR")
    assert "did you mean align_temperature" in refused("--temperature=0.1")


def test_a_key_of_another_model_is_told_and_no_error_in_a_file_or_dictionary():
    config = configure("--epochs=3", model="BPR", n_heads=1, mlp_hidden_size=[8])
    assert config.unused_keys == ["mlp_hidden_size", "n_heads"]
    assert configure("--n_heads=1", "--epochs=3", "--lora_r=4", "--tail_ratio=0.2").unused_keys == []
    assert configure("--use_bias=False", model="VBPR").unused_keys == []
    assert configure(use_bias=False).unused_keys == ["use_bias"]


def test_every_key_of_recboles_and_of_our_files_is_known():
    for path in [
        *RECBOLE.glob("overall.yaml"),
        *RECBOLE.glob("model/*.yaml"),
        *(path for path in properties_folder().rglob("*.yaml") if path.parent.name != "study"),
    ]:
        assert set(read_yaml(path)) <= known_keys(), path


def test_a_missing_or_broken_file(tmp_path):
    assert "none.yaml cannot be read" in refused(files=["none.yaml"])
    (tmp_path / "broken.yaml").write_text("a: [1\n")
    assert "broken.yaml is not YAML" in refused(files=["broken.yaml"])


# --- models ---


@pytest.mark.parametrize(
    ("name", "near"),
    [("sasrec", "SASRec"), ("SASRek", "SASRec"), ("lightgcn", "LightGCN"), ("vbpr", "VBPR"), ("VPBR", "VBPR")],
)
def test_an_unknown_model_names_the_nearest(name, near):
    message = refused(f"--model={name}", model=None)
    assert message.startswith(f"model='{name}' is unknown; did you mean ")
    assert re.search(rf"\b{near}\b", message.partition("did you mean")[2])


@pytest.mark.parametrize("name", ["Nonsense", "a.b", "../SASRec", "SASRec.SASRec", "exlib_recommender", "5"])
def test_a_model_like_no_other(name):
    assert refused(model=name).startswith(f"model={name!r} is unknown; ")


def test_a_model_that_needs_an_absent_package_says_which(monkeypatch):
    monkeypatch.setitem(sys.modules, "lightgbm", None)
    monkeypatch.delitem(sys.modules, "recbole.model.exlib_recommender", raising=False)
    assert "lightgbm" in refused(model="LightGBM")


@pytest.mark.parametrize("missing", ["model", "dataset"])
@pytest.mark.parametrize("empty", [None, ""])
def test_a_missing_model_or_dataset(missing, empty):
    message = refused(**{"model": "SASRec", "dataset": "demo", missing: empty})
    assert message.startswith(f"{missing} is not given; say --{missing}=NAME")


def test_our_models_come_first():
    assert {name: find_model(name) for name in OWN_MODELS} == OWN_MODELS


# --- negative sampling ---


def test_a_ce_loss_samples_no_negatives_unless_asked():
    assert configure()["train_neg_sample_args"] == NO_SAMPLING
    assert configure(train_neg_sample_args=None)["train_neg_sample_args"] == NO_SAMPLING


def test_other_losses_keep_recboles_negatives():
    stock = read_yaml(RECBOLE / "overall.yaml")["train_neg_sample_args"]
    assert stock["distribution"] == "uniform"
    for config in (configure(loss_type="BPR"), configure(model="BPR"), configure(model="VBPR")):
        assert config["train_neg_sample_args"] == stock


def test_the_users_negatives_are_kept():
    own = {"distribution": "popularity", "sample_num": 3}
    kept = configure(loss_type="BPR", train_neg_sample_args=own)["train_neg_sample_args"]
    assert (kept["distribution"], kept["sample_num"]) == ("popularity", 3)


def test_recboles_refusal_is_an_error_of_ours():
    message = refused(train_neg_sample_args={"distribution": "uniform", "sample_num": 1})
    assert message.startswith("RecBole refuses this configuration: train_neg_sample_args")
    assert "should be None when the loss_type is CE" in message
    assert "topk must be a positive integer" in refused(topk=0)
    assert refused(metrics="Hitt") == "metrics: 'Hitt' is unknown; did you mean Hit?"


# --- values of ours ---


@pytest.mark.parametrize("key", key_kinds.CHOICES)
@pytest.mark.parametrize("value", ["nonsense", 5, None, ["none"]])
def test_a_choice_names_the_choices(key, value):
    choices = key_kinds.CHOICES[key]
    assert refused(**{key: value}) == f"{key}={value!r} is unknown; choose {', '.join(choices)}"


@pytest.mark.parametrize("key", key_kinds.CHOICES)
def test_every_choice_is_accepted(key):
    for value in key_kinds.CHOICES[key]:
        assert configure(**{key: value})[key] == value


@pytest.mark.parametrize("key", sorted({*key_kinds.keys_of_type("int")} - {*key_kinds.MINIMUM}))
@pytest.mark.parametrize("value", [0, -1, 1.5, 2.0, True, "many", [1]])
def test_a_whole_number_above_zero(key, value):
    assert refused(**{key: value}) == f"{key}={value!r} must be a whole number of at least 1"


NOT_ABOVE_ZERO = (*key_kinds.SHARES, *key_kinds.HALF_OPEN_SHARES, *key_kinds.NOT_NEGATIVE)
NUMBERS = sorted({*key_kinds.keys_of_type("float")} - {*NOT_ABOVE_ZERO})


@pytest.mark.parametrize("key", NUMBERS)
@pytest.mark.parametrize("value", [0, -0.1, float("inf"), float("nan"), True, "much"])
def test_a_number_above_zero(key, value):
    assert refused(**{key: value}) == f"{key}={value!r} must be a number greater than 0"


@pytest.mark.parametrize("value", [-0.1, float("inf"), float("nan"), True, "much"])
def test_a_number_of_at_least_zero(value):
    assert refused(gpus=value) == f"gpus={value!r} must be a number of at least 0"
    assert configure(gpus=0)["gpus"] == 0


def test_only_the_optional_numbers_may_be_empty():
    assert "greater than 0" in refused(align_temperature=None)
    assert configure(align_teacher_temperature=None)["align_teacher_temperature"] is None
    assert configure(align_teacher_temperature="1e-1")["align_teacher_temperature"] == 0.1


def test_trackers(monkeypatch):
    for given, names in [("", []), ("tensorboard", ["tensorboard"]), (["tensorboard"], ["tensorboard"])]:
        assert configure(align_trackers=given)["align_trackers"] == names
    assert "'comet' is unknown; choose tensorboard, wandb" in refused(align_trackers="tensorboard,comet")
    monkeypatch.setitem(config_checks.TRACKERS, "wandb", lambda: False)
    assert "align_trackers=wandb: wandb is not installed; pip install wandb" in refused(align_trackers="wandb")


@pytest.mark.parametrize("key", key_kinds.SHARES)
@pytest.mark.parametrize("value", [0, 1, -0.2, 20, True, None, "20%", float("nan")])
def test_a_share(key, value):
    assert refused(**{key: value}).startswith(f"{key}={value!r} must lie between 0 and 1")


@pytest.mark.parametrize("key", key_kinds.keys_of_type("bool"))
@pytest.mark.parametrize("value", [0, 1, "maybe", None])
def test_a_boolean(key, value):
    assert refused(**{key: value}) == f"{key}={value!r} must be True or False"
    assert configure(f"--{key}=true")[key] is True
    assert configure(f"--{key}=False")[key] is False


@pytest.mark.parametrize(
    ("key", "bad", "good"),
    [
        ("lora_dropout", (1, -0.1, True, "a", None), (0, 0.5)),
        ("tail_max_popularity", (-1, 2.5, True, "a"), (None, 0, 5)),
        ("read_workers", (-1, 2.5, True, "a", None), (0, 5)),
        ("pooling_layer", (2.5, True, "a"), (None, -1, 0, 5)),
        ("align_patience", (0, 2.5, True, "a"), (None, 1, 5)),
        ("features", (None, 5, ["none"]), ("none", "auto", "some/folder")),
        ("backbone", (None, 5, ["tiny"]), ("tiny", "some/folder")),
    ],
)
def test_the_other_values(key, bad, good):
    for value in bad:
        assert refused(**{key: value}).startswith(f"{key}={value!r} must ")
    for value in good:
        assert configure(**{key: value})[key] == value


def test_every_key_has_a_kind_and_a_good_default():
    keys = read_yaml(properties_folder() / "overall.yaml")
    kinds = {*key_kinds.CHECKS, "list", "ints"}
    typed = {key for kind in kinds for key in key_kinds.keys_of_type(kind)} | set(key_kinds.CHOICES)
    assert typed - set(keys) == set()
    assert set(keys) - typed == set()
    bounded = {*key_kinds.MINIMUM, *key_kinds.SHARES, *key_kinds.HALF_OPEN_SHARES, *key_kinds.MAPPINGS}
    assert bounded <= set(keys)
    for dataset in ("demo", "shop"):
        configure(dataset=dataset)


def test_only_keys_with_an_empty_default_may_be_empty():
    assert "prompt_field_chars" in key_kinds.optional_keys()
    assert "lora_r" not in key_kinds.optional_keys()
    assert refused(lora_r=None) == "lora_r=None must be a whole number of at least 1"
    assert configure(prompt_field_chars=None)["prompt_field_chars"] is None


@pytest.mark.parametrize(
    ("key", "bad", "good"),
    [
        ("modality_kinds", ["image", {"image": "film"}, {"image": None}], {"image": "image"}),
        ("prompt_field_templates", ["value", {"price": 5}, {5: "{value}"}], {"price": "costs {value};"}),
        ("prompt_field_chars", [5, {"title": 0}, {"title": "5"}, {"title": True}], {"title": 5}),
    ],
)
def test_a_mapping(key, bad, good):
    for value in bad:
        assert refused(**{key: value}).startswith(f"{key}={value!r} must be a mapping such as {{")
    assert configure(**{key: good})[key] == good
    assert configure(f"--{key}={good}")[key] == good


def test_kinds_are_of_modalities_that_are_asked_for():
    assert configure(modalities="image,text,back", modality_kinds={"back": "image"})["modality_kinds"]
    message = refused(modality_kinds={"back": "image"})
    assert message == "modality_kinds names back, but modalities=image,text; add it there"


def test_one_layer_or_several():
    assert "pooling_layer=-2 chooses one layer" in refused(pooling_layer=-2, pooling_last_layers=2)
    assert configure(pooling_layer=-2)["pooling_layer"] == -2


@pytest.mark.parametrize(
    ("rank", "experts", "divisors"),
    [(8, 3, "1, 2, 4, 8"), (7, 2, "1, 7"), (1, 4, "1"), (12, 5, "1, 2, 3, 4, 6, 12")],
)
def test_experts_must_divide_the_rank(rank, experts, divisors):
    message = refused(lora_r=rank, num_experts=experts)
    assert message == f"num_experts={experts} does not divide lora_r={rank}; choose one of {divisors}"
    assert configure(lora_r=rank, num_experts=experts, adapter="lora")["lora_r"] == rank


def test_pixel_bounds():
    assert refused(min_pixels=500, max_pixels=400) == "min_pixels=500 is above max_pixels=400"
    assert configure(min_pixels=400, max_pixels=400)["max_pixels"] == 400


# --- keys that contradict each other ---


@pytest.mark.parametrize("modalities", ["", "Image", "image,../text", "text,text", [], None])
def test_modalities_that_are_no_names(modalities):
    assert "choose image, text or image,text, or further names" in refused(modalities=modalities)


@pytest.mark.parametrize("modality", ["image", "text", "audio"])
def test_one_modality_leaves_nothing_to_align(modality):
    config = configure(f"--modalities={modality}")
    assert (config["modalities"], config["adapter"]) == ([modality], "none")
    assert configure(modalities=modality, adapter="none")["adapter"] == "none"
    for adapter in ("moda", "lora"):
        message = refused(modalities=modality, adapter=adapter)
        assert message.startswith(f"adapter={adapter}, but alignment needs two modalities, ")
        assert "--adapter=none" in message
    for variant in ("lora", "info_nce", "sda"):
        message = refused(modalities=modality, compare=f"ids,{variant}")
        assert message.startswith(f"compare names {variant}, but alignment needs two modalities")
        assert message.endswith("--compare=ids,zero_shot")
    assert configure(modalities=modality, compare="ids,zero_shot")["adapter"] == "none"


def test_an_adapter_and_kinds_in_a_file_serve_other_runs_where_nothing_is_embedded(tmp_path):
    file = tmp_path / "a.yaml"
    file.write_text("adapter: lora\nmodality_kinds: {back: image}\nmodalities: cover\n")
    for features in ("cover.npy", "none"):
        assert configure(files=[str(file)], features=features)["modalities"] == ["cover"]
    assert "modality_kinds names back" in refused(files=[str(file)])
    file.write_text("adapter: lora\nmodalities: cover\n")
    assert refused(files=[str(file)]).startswith("adapter=lora, but alignment needs two modalities")


@pytest.mark.parametrize("key", ["features", "adapter", "alignment"])
def test_compare_sets_these_itself(key):
    value = {"adapter": "moda", "alignment": "cmsa", "features": "none"}[key]
    message = refused(f"--{key}={value}", "--compare=ids,sda")
    assert message == f"compare=ids,sda sets {key} itself, and {key}={value} was given too; leave one of them out"
    assert configure(f"--{key}={value}")[key] == value


def test_features_of_ones_own_among_the_variants():
    assert configure("--features=a.npy", "--compare=ids,features")["features"] == "a.npy"
    for features in ("auto", "none"):
        message = refused(f"--features={features}", "--compare=ids,features")
        assert message == (
            f"compare=ids,features runs features of your own, and features={features}; name them: "
            "--features=FOLDER_OR_FILE"
        )
    assert "runs features of your own" in refused("--compare=features")
    assert refused("--features=a.npy", "--compare=ids,sda") == (
        "compare=ids,sda sets features itself, and features=a.npy was given too; leave one of them out, or add "
        "features to compare"
    )
    assert "sets adapter itself" in refused("--features=a.npy", "--compare=ids,features", "--adapter=lora")


def test_unknown_and_repeated_variants():
    assert refused(compare="ids,adapted") == (
        "compare=ids,adapted: 'adapted' is unknown; choose from ids, features, zero_shot, lora, info_nce, sda"
    )
    assert refused(compare="ids,sda,ids") == "compare=ids,sda,ids names a variant twice"


def test_every_variant_is_named_after_itself_and_passes_the_checks():
    config = configure(compare=",".join(VARIANTS), features="folder/of/mine")
    for name, keys in VARIANTS.items():
        variant = config.replace(**keys)
        assert variant["features"] == keys.get("features", "folder/of/mine")
        assert variant_name(variant["features"], variant["adapter"], variant["alignment"]) == name
    assert variant_name("auto", "lora", "info_nce") == "lora+info_nce"
    assert variant_name("folder/of/mine", "moda", "cmsa") == "features"


@pytest.mark.parametrize("metric", ["MAP@10", "NDCG@5", "NDCG", "NDCG@", "NDCG@x", "GAUC"])
def test_a_valid_metric_that_is_not_computed(metric):
    message = refused(valid_metric=metric, metrics="NDCG,Hit", topk=[10, 20])
    assert message == f"valid_metric={metric} is not computed; choose one of NDCG@10, NDCG@20, Hit@10, Hit@20"


def test_valid_metrics_that_are_computed():
    for metric in ("NDCG@20", "hit@10", "TailNDCG@20"):
        config = configure(valid_metric=metric, metrics="NDCG,Hit,TailNDCG", topk=[10, 20])
        assert config["valid_metric"] == metric
    assert configure(valid_metric="GAUC", metrics=["GAUC"])["valid_metric"] == "GAUC"
    labeled = {"mode": "labeled", "split": {"RS": [0.8, 0.1, 0.1]}}
    assert configure(model="BPR", valid_metric="AUC", metrics="AUC", eval_args=labeled)["metrics"] == ["AUC"]


@pytest.mark.parametrize("value", [5, None, ["NDCG@10"]])
def test_a_valid_metric_that_is_no_text(value):
    assert refused(valid_metric=value).startswith(f"valid_metric={value!r} is no metric")


@pytest.mark.parametrize("value", [[], None, ""])
def test_no_metrics(value):
    assert "names none; choose some" in refused(metrics=value)


# --- copies ---


def test_replace_leaves_the_original():
    config = configure("--topk=[5,10]")
    before = copy.deepcopy(config.final_config_dict)
    other = config.replace(adapter="none", features="none")
    other["eval_batch_size"] = 1
    other["topk"].append(20)
    assert config.final_config_dict == before
    assert (other["adapter"], other["features"]) == ("none", "none")
    unchanged = set(before) - {"adapter", "features", "eval_batch_size", "topk"}
    assert {key: other[key] for key in unchanged} == {key: before[key] for key in unchanged}
    assert other.given("topk")


def test_replace_checks_the_new_values():
    with pytest.raises(SDAError, match="num_experts=3 does not divide"):
        configure().replace(num_experts=3)


# --- what stays RecBole's ---


def test_recboles_defaults_are_recboles():
    """SASRec on RecBole's ml-100k: nothing but our metrics and what RecBole itself refuses is changed."""
    stock = {}
    names = ("overall", "model/SASRec", "dataset/sample", "dataset/ml-100k", "quick_start_config/sequential")
    for name in names:
        stock.update(_read_like_recbole(RECBOLE / f"{name}.yaml"))
    # RecBole's own way of filling these in
    stock["gpu_id"] = str(stock["gpu_id"])
    stock["eval_args"] = {**stock["eval_args"], "mode": {"valid": "full", "test": "full"}}
    stock["eval_args"].setdefault("group_by", "user")
    del stock["data_path"]
    metrics = stock.pop("metrics")
    assert stock.pop("train_neg_sample_args")["distribution"] == "uniform"

    config = configure(dataset="ml-100k")
    assert {key: config[key] for key in stock} == stock
    assert config["metrics"][: len(metrics)] == metrics
    assert config["metrics"][len(metrics) :] == [
        *("TailHit", "TailNDCG", "HeadHit", "HeadNDCG"),
        *("ItemCoverage", "GiniIndex", "AveragePopularity"),
    ]
    assert config["train_neg_sample_args"] == NO_SAMPLING
    assert Path(config["data_path"]).samefile(RECBOLE.parent / "dataset_example" / "ml-100k")


@pytest.mark.parametrize("model", ["CORE", "KGIN", "MCCLK", "KD_DAGFM"])
def test_recboles_model_defaults_are_recboles(model):
    stock = _read_like_recbole(RECBOLE / "model" / f"{model}.yaml")
    config = configure(model=model)
    assert {key: config[key] for key in stock} == stock


def test_no_key_of_ours_is_a_key_of_one_of_recboles_models():
    ours = set(read_yaml(properties_folder() / "overall.yaml"))
    shared = {key for path in RECBOLE.glob("model/*.yaml") for key in _read_like_recbole(path) if key in ours}
    assert shared == set()


def _read_like_recbole(path: Path) -> dict:
    config = SDAConfig.__new__(SDAConfig)
    return yaml.load(path.read_text(encoding="utf-8"), Loader=Config._build_yaml_loader(config)) or {}


@pytest.mark.parametrize("reduction", ["pca", "whiten"])
def test_sum_and_components_of_each_modalitys_own_contradict_each_other(reduction):
    message = refused(fusion="sum", feature_reduction=reduction)
    assert f"feature_reduction={reduction} gives" in message
    assert "use fusion=concat, gated or attention, or feature_reduction=none" in message
