"""Random two- or three-block encoders of several kinds, as folders of transformers."""

from pathlib import Path
from typing import Any

WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", *"abcdefghij"]
KINDS = ("bert", "distilbert", "roberta", "mpnet", "modernbert")


def write_tokenizer(folder: Path, words: list[str] = WORDS) -> None:
    """A vocabulary of whole words, with [CLS] ... [SEP]."""
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.WordLevel({w: i for i, w in enumerate(words)}, "[UNK]"))
    tokenizer.normalizer = normalizers.Lowercase()
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    special = {"pad": "[PAD]", "unk": "[UNK]", "cls": "[CLS]", "sep": "[SEP]"}
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, **{f"{k}_token": v for k, v in special.items()}
    )
    fast.save_pretrained(str(folder))


def tiny(kind: str, folder: Path, **changes: Any) -> Path:
    """A random encoder of the given kind with room for 32 tokens; `changes` go to its config."""
    import torch
    import transformers

    common: dict[str, Any] = {"vocab_size": 30, "max_position_embeddings": 32, "pad_token_id": 0}
    usual = {
        "hidden_size": 16,
        "num_hidden_layers": 3,
        "num_attention_heads": 2,
        "intermediate_size": 32,
    }
    name, own = {
        "bert": ("Bert", usual),
        "distilbert": ("DistilBert", {"dim": 16, "n_layers": 3, "n_heads": 2, "hidden_dim": 32}),
        "roberta": ("Roberta", usual | {"max_position_embeddings": 34, "pad_token_id": 1}),
        "mpnet": ("MPNet", usual | {"max_position_embeddings": 34, "pad_token_id": 1}),
        "modernbert": (
            "ModernBert",
            usual
            | {"local_attention": 4, "global_attn_every_n_layers": 2, "cls_token_id": 2}
            | {"sep_token_id": 3, "bos_token_id": 2, "eos_token_id": 3},
        ),
        "electra": ("Electra", usual | {"embedding_size": 16}),
    }[kind]
    torch.manual_seed(0)
    config = getattr(transformers, f"{name}Config")(**(common | own | changes))
    model = getattr(transformers, f"{name}Model")(config)
    for parameter in model.parameters():  # off the start, where positions hardly matter
        parameter.data.add_(0.2 * torch.randn_like(parameter))
    model.save_pretrained(str(folder))
    write_tokenizer(folder)
    return folder
