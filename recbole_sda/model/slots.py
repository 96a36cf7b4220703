"""Which of RecBole's models and ours can use features: where each keeps its items, or why it cannot."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib.util import find_spec

from recbole_sda.errors import SDAError


@dataclass(frozen=True)
class Slots:
    """What a model has for each item.

    Attributes:
        tables: attributes that hold an item table or a :class:`FeatureSlot`, which features replace.
            Two names may hold one module.
        item_terms: attributes of other parameters with a row for each item, which features do not replace.
            Some exist under some settings only.
        cold: why the model cannot score items that it was not trained on; empty if it can.
        needed: key → the only value that goes with features, and why.
        package: module → what to install, if the model imports what RecBole does not bring.
    """

    tables: tuple[str, ...] = ("item_embedding",)
    item_terms: tuple[str, ...] = ()
    cold: str = ""
    needed: Mapping[str, tuple[str | bool, str]] = field(default_factory=dict)
    package: Mapping[str, str] = field(default_factory=dict)


_ONE_TABLE = (
    "SASRec GRU4Rec NARM STAMP LightSANs FEARec SRGNN SHAN HRM FOSSIL SINE CORE GRU4RecF SASRecF FDSA Caser GCSAN "
    "NextItNet SASRecCPR "
    "BPR LightGCN NGCF DGCF SGL SpectralCF ENMF ConvNCF MacridVAE"
)

# Every entry is tested: equal to the stock model when the features are its own tables, trained, saved, reloaded.
SLOTS = {
    **{name: Slots() for name in _ONE_TABLE.split()},
    # sequential
    "BERT4Rec": Slots(item_terms=("output_bias",)),
    "TransRec": Slots(item_terms=("bias",)),
    "NPE": Slots(item_terms=("embedding_seq_item",)),
    "HGN": Slots(("item_embedding", "item_embedding_for_prediction")),
    "FPMC": Slots(("IU_emb", "LI_emb", "IL_emb")),
    "GRU4RecCPR": Slots(
        ("item_embedding", "out_item_embedding"),
        needed={"use_out_emb": (False, "an output layer of its own has weights for each item")},
    ),
    "RepeatNet": Slots(
        ("item_matrix",), cold="its output layer has weights for each item, which only training on the item sets"
    ),
    "S3Rec": Slots(
        needed={
            "train_stage": ("pretrain", "fine-tuning loads its checkpoint before features can take their place")
        }
    ),
    # general
    "SimpleX": Slots(("item_emb",)),
    "LINE": Slots(item_terms=("item_context_embedding",)),
    "NCL": Slots(package={"faiss": "faiss-cpu"}),
    "FISM": Slots(("item_src_embedding", "item_dst_embedding"), ("item_bias",)),
    "NAIS": Slots(("item_src_embedding", "item_dst_embedding"), ("bias",)),
    "NeuMF": Slots(("item_mf_embedding", "item_mlp_embedding")),
    "NNCF": Slots(item_terms=("user_neigh_embedding",)),
    # ours
    "VBPR": Slots(("item_content", "item_content_bias"), ("item_embedding", "item_bias")),
    "SLMRec": Slots(("item_content",), ("item_embedding",)),
}

_REFUSALS = {
    "users, items and all other fields share one table": (
        "AFM AutoInt DCN DCNV2 DeepFM DIEN DIN DSSM EulerNet FFM FiGNN FM FNN FwFM KD_DAGFM LR NFM PNN WideDeep "
        "xDeepFM"
    ),
    "it needs a knowledge graph, where items are entities among others": (
        "CFKG CKE GRU4RecKG KGAT KGCN KGIN KGNNLS KSR KTUP MCCLK MKR RippleNet"
    ),
    "it reads and writes rows of interactions through layers with weights for each item": (
        "CDAE DiffRec LDiffRec MultiDAE MultiVAE RaCT RecVAE"
    ),
    "it learns no vectors of items": "ADMMSLIM AsymKNN EASE ItemKNN NCEPLRec Pop Random SLIMElastic",
    "it makes an item's vector of the item's column of interactions": "DMF",
    "its graph starts from one-hot nodes, users and items alike": "GCMC",
    "it is made of decision trees": "LightGBM XGBoost",
}
REFUSED = {name: reason for reason, names in _REFUSALS.items() for name in names.split()}


def check_model(model: str, config: Mapping | None = None) -> None:
    """Refuse, before any work, a model that cannot take features.

    Args:
        config: the run's, if the values of its keys are to be checked, too.

    Raises:
        SDAError: the model has no item table, lacks a package, or has a setting that features do not go with.
    """
    if model not in SLOTS:
        reason = REFUSED.get(model, "it is not known where it keeps its item table")
        raise SDAError(
            f"model={model!r} cannot use features: {reason}. Choose a model with an item table, such as "
            "SASRec, LightGCN or VBPR, or --features=none to run it on item IDs"
        )
    slots = SLOTS[model]
    for module, package in slots.package.items():
        if find_spec(module) is None:
            raise SDAError(f"model={model!r} needs {module}, which is not installed: pip install {package}")
    for key, (value, why) in slots.needed.items() if config is not None else ():
        if config[key] != value:
            raise SDAError(f"{key}={config[key]!r}: {why}; say --{key}={value}, or --features=none")
