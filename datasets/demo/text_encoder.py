"""Pretrain a tiny BERT on lyrics like those of the demo songs, so that no download is needed.

It learns to predict masked words (Devlin et al. 2019, "BERT: pre-training of deep bidirectional transformers", 3.1), by
which words of a kind get similar states. Its lyrics are those of no song.
"""

import string
import tempfile
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors

from tuning.datasets import storage
from tuning.datasets.demo import lyrics as demo_lyrics
from tuning.datasets.features.threads import one_thread
from tuning.models.hugging_face import transformers

SEED = (1, 1)  # of its lyrics; the seeds of songs differ
NUM_LYRICS = 1500
STEPS = 240
BATCH_SIZE = 32
LEARNING_RATE = 6e-3
MASKED_SHARE = 0.3  # of the words; eight in ten of them are masked, one is replaced, one is left as it is
INITIAL_SPREAD = 0.1  # standard deviation of the weights; the usual 0.02 suits wider layers
MAX_TOKENS = 128
SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
IGNORED = -100  # label of a token that is not predicted


def build_encoder(root: str) -> None:
    """Pretrain the encoder and write it with its tokenizer into a folder or URI; about 5 s on one core.

    `AutoModel.from_pretrained` and `AutoTokenizer.from_pretrained` read the folder.
    """
    write(root, *pretrain())


def write(root: str, tokenizer: Any, model: Any) -> None:
    """Write the tokenizer, and the model without the head that predicts words."""
    with tempfile.TemporaryDirectory() as folder:
        tokenizer.save_pretrained(folder)
        model.bert.config.save_pretrained(folder)
        for path in sorted(Path(folder).iterdir()):
            storage.write_bytes(root, path.name, path.read_bytes())
    weights = {name: tensor.contiguous() for name, tensor in model.bert.state_dict().items()}
    storage.write_bytes(root, "model.safetensors", save(weights, metadata={"format": "pt"}))


def pretrain() -> tuple[Any, Any]:
    """Train the tokenizer and the BERT with its head; the same weights each time."""
    texts = [demo_lyrics.draw(*SEED, number).text for number in range(NUM_LYRICS)]
    tokenizer = _tokenizer(texts)
    config = transformers.BertConfig(
        vocab_size=len(tokenizer),
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=64,
        architectures=["BertModel"],
        max_position_embeddings=MAX_TOKENS,
        initializer_range=INITIAL_SPREAD,
        hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0,
        pad_token_id=tokenizer.pad_token_id,
    )
    with one_thread(), torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = transformers.BertForMaskedLM(config)
        model.bert.pooler = transformers.BertModel(config).pooler  # untrained, but loaders warn if it is missing
        _set_positions(model.bert.embeddings.position_embeddings.weight)
        _train(model, tokenizer, tokenizer(texts, padding=True, return_tensors="pt"))
    return tokenizer, model.eval()


def _tokenizer(texts: list[str]) -> Any:
    """A WordPiece tokenizer with the words of the texts, and letters for other words.

    The trainer of the package tokenizers is not deterministic.
    """
    letters = string.ascii_lowercase
    words = sorted({word for text in texts for word in text.split()} - set(letters))
    vocabulary = [*SPECIAL, *letters, *(f"##{letter}" for letter in letters), *words]
    pieces = Tokenizer(models.WordPiece({piece: place for place, piece in enumerate(vocabulary)}, unk_token="[UNK]"))
    pieces.normalizer = normalizers.BertNormalizer(lowercase=True)
    pieces.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    pieces.decoder = decoders.WordPiece()
    ends = [(token, pieces.token_to_id(token)) for token in ("[CLS]", "[SEP]")]
    pieces.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B:1 [SEP]:1", special_tokens=ends
    )
    return transformers.BertTokenizerFast(tokenizer_object=pieces, model_max_length=MAX_TOKENS)


def _set_positions(weight: torch.Tensor) -> None:
    """Fill position embeddings [positions, hidden] with sines (Vaswani et al. 2017, 3.5) whose periods fit short texts.

    With random ones the model needs far more steps to learn that neighbours matter most.
    """
    positions, width = weight.shape
    angles = torch.arange(positions)[:, None] / 100 ** (torch.arange(0, width, 2) / width)
    with torch.no_grad():
        weight.copy_(INITIAL_SPREAD * torch.cat([angles.sin(), angles.cos()], dim=1))


def _train(model: Any, tokenizer: Any, tokens: Any) -> None:
    """Train in place, by Adam with a cosine schedule."""
    words, valid = tokens["input_ids"], tokens["attention_mask"]
    optimizer = torch.optim.Adam(model.parameters(), lr=LEARNING_RATE, fused=True)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, STEPS)
    model.train()
    for _ in range(STEPS):
        chosen = torch.randint(len(words), (BATCH_SIZE,))
        seen, labels = mask_words(words[chosen], tokenizer)
        loss = model(input_ids=seen, attention_mask=valid[chosen], labels=labels).loss
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()


def mask_words(words: torch.Tensor, tokenizer: Any) -> tuple[torch.Tensor, torch.Tensor]:
    """Mask token ids [clips, tokens]; returns the input, and as labels the masked ids, else IGNORED."""
    chosen = (torch.rand(words.shape) < MASKED_SHARE) & (words >= len(SPECIAL))
    fate = torch.rand(words.shape)
    seen = torch.where(chosen & (fate < 0.8), tokenizer.mask_token_id, words)
    any_word = torch.randint(len(SPECIAL), len(tokenizer), words.shape)
    seen = torch.where(chosen & (fate >= 0.9), any_word, seen)
    return seen, torch.where(chosen, words, IGNORED)
