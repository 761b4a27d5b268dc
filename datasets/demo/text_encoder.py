"""A text encoder that is made on the spot, not downloaded: a tiny BERT that has read the demo's kind of lyrics.

Trained to guess masked words (Devlin et al. 2019, "BERT: pre-training of deep bidirectional transformers", 3.1), so
that words of a kind get similar states, on lyrics that no song of the corpus has.
"""

import string
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tuning.datasets import storage
from tuning.datasets.demo import lyrics as demo_lyrics
from tuning.datasets.features.speech_encoder import one_thread

if TYPE_CHECKING:
    import torch

SEED = (1, 1)  # of the lyrics that it reads; the songs' seeds begin otherwise
NUM_LYRICS = 1500
STEPS = 240
BATCH_SIZE = 32
LEARNING_RATE = 6e-3
MASKED_SHARE = 0.3  # of the words; eight in ten of them masked, one replaced by any piece, one left as it is
INITIAL_SPREAD = 0.1  # standard deviation of the weights: the usual 0.02 is meant for wider layers
MAX_TOKENS = 128
SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
IGNORED = -100  # label of a token whose guess does not count


def build_encoder(root: str) -> None:
    """Write the encoder and its tokenizer into a folder or URI, in Hugging Face's format; about 5 s on one core.

    `AutoModel.from_pretrained` and `AutoTokenizer.from_pretrained` take the folder.
    """
    write(root, *pretrain())


def write(root: str, tokenizer: Any, model: Any) -> None:
    """Write the tokenizer, and the model without the head that guesses words."""
    from safetensors.torch import save

    with tempfile.TemporaryDirectory() as folder:
        tokenizer.save_pretrained(folder)
        model.bert.config.save_pretrained(folder)
        for path in sorted(Path(folder).iterdir()):
            storage.write_bytes(root, path.name, path.read_bytes())
    weights = {name: tensor.contiguous() for name, tensor in model.bert.state_dict().items()}
    storage.write_bytes(root, "model.safetensors", save(weights, metadata={"format": "pt"}))


def pretrain() -> tuple[Any, Any]:
    """The tokenizer, and the BERT with the head that guesses masked words, trained; the same each time."""
    import torch
    from transformers import BertConfig, BertForMaskedLM, BertModel

    texts = [demo_lyrics.draw(*SEED, number).text for number in range(NUM_LYRICS)]
    tokenizer = _tokenizer(texts)
    config = BertConfig(
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
    with one_thread(), torch.random.fork_rng(devices=[]):  # so that weights are the same each time
        torch.manual_seed(0)
        model = BertForMaskedLM(config)
        model.bert.pooler = BertModel(config).pooler  # never trained, but else every loader would warn of its absence
        _place_by_waves(model.bert.embeddings.position_embeddings.weight)
        _train(model, tokenizer, tokenizer(texts, padding=True, return_tensors="pt"))
    return tokenizer, model.eval()


def _tokenizer(texts: list[str]) -> Any:
    """A WordPiece tokenizer as BERT's, whose pieces are the texts' words, and letters for others.

    The package's own trainer would break ties between pieces in another way each time.
    """
    from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors
    from transformers import BertTokenizerFast

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
    return BertTokenizerFast(tokenizer_object=pieces, model_max_length=MAX_TOKENS)


def _place_by_waves(weight: "torch.Tensor") -> None:
    """Position embeddings [positions, hidden], in place, by sines (Vaswani et al. 2017, 3.5) that fit short texts.

    From random ones, that neighbours say most of a word would take far more steps to learn.
    """
    import torch

    positions, width = weight.shape
    angles = torch.arange(positions)[:, None] / 100 ** (torch.arange(0, width, 2) / width)
    with torch.no_grad():
        weight.copy_(INITIAL_SPREAD * torch.cat([angles.sin(), angles.cos()], dim=1))


def _train(model: Any, tokenizer: Any, tokens: Any) -> None:
    """Guess masked words, in place: Adam, with a rate that falls to zero along a cosine."""
    import torch

    words, valid = tokens["input_ids"], tokens["attention_mask"]
    optimizer = torch.optim.Adam(model.parameters(), lr=LEARNING_RATE, fused=True)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, STEPS)
    model.train()
    for _ in range(STEPS):
        chosen = torch.randint(len(words), (BATCH_SIZE,))
        seen, labels = masked(words[chosen], tokenizer)
        loss = model(input_ids=seen, attention_mask=valid[chosen], labels=labels).loss
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()


def masked(words: "torch.Tensor", tokenizer: Any) -> "tuple[torch.Tensor, torch.Tensor]":
    """What the model sees of token ids [clips, tokens], and the labels: the ids at masked places, IGNORED elsewhere."""
    import torch

    chosen = (torch.rand(words.shape) < MASKED_SHARE) & (words >= len(SPECIAL))
    fate = torch.rand(words.shape)
    seen = torch.where(chosen & (fate < 0.8), tokenizer.mask_token_id, words)
    any_word = torch.randint(len(SPECIAL), len(tokenizer), words.shape)
    seen = torch.where(chosen & (fate >= 0.9), any_word, seen)
    return seen, torch.where(chosen, words, IGNORED)
