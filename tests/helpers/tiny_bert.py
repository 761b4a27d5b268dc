"""A tiny text encoder with its tokenizer, in the folders that transformers saves and loads."""

from pathlib import Path

SONGS = [
    "shine on the river tonight, we dance in the golden light",
    "cold rain is falling on my empty heart",
    "la la la, sing it again and never let me go",
]
SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
SIZES = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 48}
# DistilBERT has names of its own.
OTHER_SIZES = {"Distil": {"dim": 32, "n_layers": 2, "n_heads": 2, "hidden_dim": 48}}


def write_encoder(folder: Path, kind: str = "Bert", seed: int = 0, **changed) -> str:
    """Write a random model of transformers' class `kind` + Model, with wide weights, and a WordPiece tokenizer."""
    import torch
    import transformers

    write_tokenizer(folder)
    sizes = OTHER_SIZES["Distil"] if kind == "DistilBert" else SIZES
    positions = {"max_position_embeddings": 64, "vocab_size": 120, "initializer_range": 0.3, "pad_token_id": 0}
    torch.manual_seed(seed)
    config = getattr(transformers, f"{kind}Config")(**(sizes | positions | changed))
    getattr(transformers, f"{kind}Model")(config).save_pretrained(folder)
    return str(folder)


def write_tokenizer(folder: Path) -> None:
    """Write a WordPiece tokenizer of lower-case words, trained on SONGS."""
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors, trainers
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    tokenizer.normalizer, tokenizer.pre_tokenizer = normalizers.Lowercase(), pre_tokenizers.BertPreTokenizer()
    tokenizer.train_from_iterator(SONGS, trainers.WordPieceTrainer(vocab_size=120, special_tokens=SPECIAL))
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    names = {"pad_token": "[PAD]", "unk_token": "[UNK]", "cls_token": "[CLS]", "sep_token": "[SEP]"}
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, **names).save_pretrained(folder)
