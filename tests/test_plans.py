"""What a command asks for, refused before any work where its parts do not go together."""

import re
import shlex

import pytest

from recbole_sda import cli, idle_keys
from recbole_sda.catalog.demo import write_demo
from recbole_sda.defaults import properties_folder, read_properties
from recbole_sda.errors import SDAError
from recbole_sda.model import OWN_MODELS
from recbole_sda.plans import make_plans, model_configs

LEAVE_ONE_OUT = {"split": {"LS": "valid_and_test"}, "order": "TO", "group_by": "user", "mode": "full"}


@pytest.fixture
def configs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_demo(tmp_path / "dataset" / "shop", items=20, users=20)

    def build(models, **values):
        return model_configs(models, "shop", None, {"data_path": "dataset", **values}, [])

    return build


def test_each_model_has_a_configuration_of_its_own(configs):
    built = configs("SASRec, VBPR", eval_args=LEAVE_ONE_OUT, history_mask="all")
    assert [config["model"] for config in built] == ["SASRec", "VBPR"]
    assert built[1]["reg_weight"] == 0.1


@pytest.mark.parametrize(
    ("models", "values", "message"),
    [
        ("SASRec,VBPR", {"history_mask": "all"}, r"eval_args differ.*SASRec: .*VBPR: .*Say --eval_args="),
        ("SASRec,VBPR", {"eval_args": LEAVE_ONE_OUT}, r"history_mask=recbole.*--history_mask=all"),
        ("SASRec,SASRec", {}, "names a model twice"),
        ("a.x:Rec,b.y:Rec", {}, "names two classes Rec, and figures .* call one of them something else"),
    ],
)
def test_models_that_cannot_be_compared(configs, models, values, message):
    with pytest.raises(SDAError, match=message):
        configs(models, **values)


def test_a_typed_key_that_no_model_reads_is_refused_and_one_of_either_is_not(tmp_path, configs):
    common = {"data_path": "dataset", "eval_args": LEAVE_ONE_OUT, "history_mask": "none"}
    built = model_configs(None, "shop", None, common, ["--model=SASRec,VBPR", "--hidden_size=32"])
    assert built[0]["hidden_size"] == 32
    with pytest.raises(SDAError, match="'ssl_task' is read by none of the models SASRec, VBPR"):
        model_configs(None, "shop", None, common, ["--model=SASRec,VBPR", "--ssl_task=FD"])


def test_cold_items_cannot_choose_the_epoch(configs):
    with pytest.raises(SDAError, match="validation holds no cold item"):
        configs("SASRec", metrics=["ColdHit"], valid_metric="ColdHit@10")


# --- a metric of a group that validation has none of ---


@pytest.fixture
def circle(tmp_path, monkeypatch):
    """24 users who walk round 12 items, so that each item is in training and most are targets."""
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "dataset" / "circle"
    folder.mkdir(parents=True)
    lines = ["user_id:token\titem_id:token\ttimestamp:float"]
    lines += [f"u{u}\ti{(u + t) % 12}\t{t}" for u in range(24) for t in range(6)]
    (folder / "circle.inter").write_text("\n".join(lines) + "\n")

    def plans(models, **values):
        common = {
            "data_path": "dataset",
            "load_col": {"inter": ["user_id", "item_id", "timestamp"]},
            "eval_args": LEAVE_ONE_OUT,
            "history_mask": "none",
            "features": "none",
            "use_gpu": False,
            "state": "ERROR",
        }
        return make_plans(model_configs(models, "circle", None, {**common, **values}, []))

    return plans


@pytest.mark.parametrize("models", ["SASRec", "BPR", "BPR,SASRec"])
def test_a_group_without_a_validation_target_is_found_before_anything_trains(circle, models):
    with pytest.raises(SDAError, match="TailHit@10 is undefined: no validation target is a tail item"):
        circle(models, valid_metric="TailHit@10", tail_max_popularity=0)
    with pytest.raises(SDAError, match=r"HeadNDCG@10 is undefined: .* is a head item; change tail_head"):
        circle(models, valid_metric="HeadNDCG@10", tail_max_popularity=1000)
    assert len(circle(models, valid_metric="HeadNDCG@10", tail_max_popularity=0)) == 1 + models.count(",")


def test_only_a_metric_of_a_group_costs_a_split(circle, monkeypatch):
    from recbole.data.dataset import Dataset

    monkeypatch.setattr(Dataset, "build", None)
    assert circle("BPR", valid_metric="NDCG@10")
    with pytest.raises(TypeError):
        circle("BPR", valid_metric="TailHit@10")


# --- typed keys that would do nothing ---

IDLE = [
    ("--fusion=sum --features=none", "fusion=sum would do nothing: no variant uses features"),
    ("--feature_reduction=pca --compare=ids", "feature_reduction=pca would do nothing: no variant uses features"),
    ("--use_item_id=add --features=none", "no variant uses features"),
    ("--missing_features=learn --features=none", "no variant uses features"),
    ("--missing_features=learn", "only features of your own can lack items"),
    ("--feature_dimension=64", "feature_reduction=none keeps all dimensions; leave it out, or say --feature_red"),
    ("--feature_activation=relu", "no hidden layer; leave it out, or say --feature_hidden_size=WIDTH"),
    ("--feature_device_gib=2 --feature_placement=disk", "feature_placement=disk says where the features lie"),
    ("--fusion=gated --modalities=text", "modalities=text leaves nothing to fuse"),
    ("--tail_head_share=0.3 --tail_max_popularity=5", "tail_max_popularity=5 says what the tail is"),
    ("--tail_max_popularity=5 --metrics=NDCG,TailPercentage", "no metric is of the tail or the head"),
    ("--bootstrap_samples=100", "nothing is compared; leave it out, or say --compare=VARIANTS"),
    ("--bootstrap_samples=100 --seeds=1,2", "nothing is compared"),
    ("--protocol_seed=1", "without cold_share, protocol=uni100 and compare nothing is drawn by it"),
    ("--align_steps=10 --adapter=none", "align_steps=10 would do nothing: no variant trains an adapter"),
    ("--alignment=cmsa --adapter=none", "alignment=cmsa would do nothing"),
    ("--lora_r=4 --compare=ids,zero_shot", "lora_r=4 would do nothing: no variant trains an adapter"),
    ("--num_experts=2 --features=a.npy", "num_experts=2 would do nothing: no variant trains an adapter"),
    ("--num_experts=2 --compare=ids,lora", "num_experts=2 would do nothing: only MoDA has experts"),
    ("--align_teacher=base --compare=ids,info_nce", "align_teacher=base would do nothing: only CMSA has"),
    ("--adapter=none --features=a.npy", "adapter=none would do nothing: no variant embeds the catalogue"),
    ("--backbone=tiny --features=none", "backbone=tiny would do nothing: no variant embeds the catalogue"),
    ("--feature_dtype=float32 --features=a.npy", "no variant embeds the catalogue; leave it out, or compare with"),
    ("--diagnose_batches=20", "nothing is diagnosed in a run"),
    ("--use_item_id=add --model=VBPR", "VBPR keeps item IDs apart from features; leave it out, or choose another"),
    ("--fusion=sum --model=SLMRec", "SLMRec has a channel for each modality"),
    ("--use_item_id=add --model=VBPR,SLMRec --history_mask=all", "keeps item IDs apart from features"),
]
AT_WORK = [
    "--fusion=sum --use_item_id=add --feature_placement=disk",
    "--missing_features=learn --features=a.npy",
    "--missing_features=learn --features=a.npy --compare=ids,features",
    "--feature_dimension=64 --feature_reduction=pca",
    "--feature_activation=relu --feature_hidden_size=8",
    "--feature_device_gib=2",
    "--fusion=gated --features=a.npy --modalities=text",
    "--tail_head_share=0.3",
    "--tail_max_popularity=5",
    "--bootstrap_samples=100 --protocol_seed=1 --compare=ids,sda",
    "--protocol_seed=1 --cold_share=0.1",
    "--protocol_seed=1 --protocol=uni100",
    "--align_steps=10 --lora_r=4 --num_experts=2 --align_teacher=base",
    "--lora_r=4 --align_steps=10 --compare=ids,lora",
    "--backbone=tiny --compare=ids,features,zero_shot --features=a.npy",
    "--adapter=none --features=auto",
    "--use_item_id=add --fusion=sum --model=SASRec,SLMRec --history_mask=all",
    "--fusion=sum --model=VBPR",
]


def typed(command, dataset="demo", files=None):
    arguments = command if "--model=" in command else f"--model=SASRec {command}"
    return model_configs(None, dataset, files, None, arguments.split())


@pytest.mark.parametrize(("command", "message"), IDLE)
def test_a_typed_key_that_would_do_nothing_is_refused(command, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SDAError) as error:
        typed(command)
    assert message in str(error.value)
    assert "would do nothing: " in str(error.value)
    assert len(str(error.value).splitlines()) == 1


@pytest.mark.parametrize("command", AT_WORK)
def test_a_typed_key_that_does_something_is_accepted(command, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert typed(command)


def test_what_a_file_or_a_program_says_may_serve_other_runs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    file = tmp_path / "a.yaml"
    file.write_text("fusion: gated\nfeature_dimension: 64\nlora_r: 4\n")
    assert typed("--features=none", files=[str(file)])
    assert model_configs("SASRec", "demo", None, {"features": "none", "fusion": "gated", "lora_r": 4}, [])


def test_every_row_of_the_table_names_keys_that_there_are():
    ours = read_properties("overall")
    for row in idle_keys.TABLE:
        for name in row.keys.split():
            assert any(row._replace(keys=name).names(key) for key in ours), name
    for model in OWN_MODELS.values():
        assert set(model.idle_keys) <= set(ours)


def test_every_run_that_the_pages_show_is_accepted(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    clone = properties_folder().parent
    if not (clone / "README.md").is_file():
        pytest.skip("installed without its README")
    pages = [page.read_text(encoding="utf-8") for page in (clone / "README.md", *(clone / "docs").glob("*.md"))]
    commands = re.findall(r"python run_recbole_sda\.py ([^`\n]*)", "\n".join(pages))
    runs = [cli._split(shlex.split(command, comments=True)) for command in commands if command.startswith("--m")]
    own = re.compile(r"--(model|alignment)=\w+:")  # classes that are only on the page
    runs = [run for run in runs if not any(map(own.match, run[3]))]
    assert len(runs) > 10
    for verb, _, files, argv in runs:
        assert verb == "run"
        files = [str(clone / file) for file in files if not file.startswith("saved/")]
        assert model_configs(None, None, files, None, argv)


def test_every_link_between_the_pages_leads_somewhere():
    clone = properties_folder().parent
    if not (clone / "README.md").is_file():
        pytest.skip("installed without its README")
    pages = [clone / "README.md", *(clone / "docs").glob("*.md")]
    anchors = {page: _anchors(page.read_text(encoding="utf-8")) for page in pages}
    for page in pages:
        for target in re.findall(r"\]\(([^)\s]+)\)", page.read_text(encoding="utf-8")):
            if "://" not in target:
                path, _, anchor = target.partition("#")
                linked = (page.parent / path).resolve() if path else page
                assert linked.exists(), (page.name, target)
                assert not anchor or anchor in anchors[linked], (page.name, target)


def _anchors(text: str) -> set[str]:
    """As the usual viewers of Markdown make them of headings."""
    headings = re.findall(r"^#+ (.*)$", text, re.M)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}
