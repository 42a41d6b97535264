"""``seqkit plot attention``: where a translation model looks in a sentence."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from seqkit.cli import console
from seqkit.cli.command import command
from seqkit.cli.model_options import Device, ModelPath, RunsDir, Threads, choose_device, choose_model
from seqkit.cli.plot_output import NumbersAsJson, PictureFile, picture_output
from seqkit.errors import DataError, UsageError

if TYPE_CHECKING:
    from seqkit.diagnostics.attention import AttentionKind, AttentionMap, Choice
    from seqkit.plots.attention_map import AttentionPanel
    from seqkit.tasks.attended_pairs import AttendedPair
    from seqkit.tasks.seq2seq_predictor import LoadedSeq2Seq

_EXAMPLES = """\
seqkit plot attention --text "Ein Hund läuft durch den Schnee." -o attention.png
seqkit plot attention --model runs/a --text "Ein Hund läuft." --target "A dog runs." --layer 2 --head 1
seqkit plot attention --text "Ein Hund läuft." --layer all --head all -o heads.pdf
seqkit plot attention --self encoder --layer 3 --head 2 -o it.svg \\
    --text "The animal didn't cross the street because it was too tired." \\
    --text "The animal didn't cross the street because it was too wide."
seqkit plot attention --text "Ein Hund läuft." --json | jq -c '.sentences[0].maps[0].weights[0]'"""


class SelfAttentionOf(StrEnum):
    """Whose self-attention is drawn."""

    encoder = "encoder"
    decoder = "decoder"


def register(plot: typer.Typer) -> None:
    """Add ``attention`` to ``seqkit plot``."""

    @command(plot, "attention", examples=_EXAMPLES)
    def attention(
        text: Annotated[
            list[str], typer.Option("--text", help="A source sentence; repeatable: side by side.", show_default=False)
        ],
        target: Annotated[
            list[str] | None,
            typer.Option("--target", help="Its translation, one for each --text (default: the model's own)."),
        ] = None,
        self_of: Annotated[
            SelfAttentionOf | None,
            typer.Option("--self", help="Self-attention inside the encoder or decoder (default: to the source)."),
        ] = None,
        layer: Annotated[
            str | None,
            typer.Option("--layer", metavar="N", help="A layer from 1 on, all, or mean (default: the last)."),
        ] = None,
        head: Annotated[
            str, typer.Option("--head", metavar="N", help="A head from 1 on, all, or the mean of all.")
        ] = "mean",
        model: ModelPath = None,
        runs_dir: RunsDir = None,
        device: Device = "auto",
        threads: Threads = None,
        output: PictureFile = None,
        json_output: NumbersAsJson = False,
    ) -> None:
        """Draw where a translation model looks: each row is a token, and its weights over the columns sum to 1.

        In the attention to the source a row belongs to the token that is predicted with it. A piece that continues a
        word begins with a dot (·). Recurrent models have one layer of attention with one head.
        """
        destination = picture_output(output, as_json=json_output)
        _check_texts(text, target, self_of)
        layer_choice = None if layer is None else _choice("--layer", layer)
        head_choice = _choice("--head", head)
        path = choose_model("seq2seq", model, runs_dir)
        place = choose_device(device, threads)
        from seqkit.tasks.attended_pairs import attention_size
        from seqkit.tasks.seq2seq_predictor import load_seq2seq

        loaded = load_seq2seq(path, place)
        kind: AttentionKind = "source" if self_of is None else self_of.value
        num_layers, num_heads = attention_size(loaded, kind)
        layer_choice = num_layers if layer_choice is None else layer_choice
        _check_choice("--layer", layer_choice, num_layers)
        _check_choice("--head", head_choice, num_heads)
        drawing = _Drawing(
            loaded=loaded,
            kind=kind,
            sentences=_read(loaded, text, target, kind),
            layer=layer_choice,
            head=head_choice,
            has_own_translation=target is None,
        )

        def save(file: Path) -> None:
            from seqkit.plots.attention_map import save_attention_maps

            save_attention_maps(file, drawing.grid())

        destination.deliver(save=save, text=lambda columns, _: drawing.text(columns), facts=drawing.facts)


@dataclass(frozen=True, kw_only=True)
class _Sentence:
    text: str
    pair: AttendedPair


@dataclass(frozen=True, kw_only=True)
class _Drawing:
    """What was found, and what of it is shown."""

    loaded: LoadedSeq2Seq
    kind: AttentionKind
    sentences: list[_Sentence]
    layer: Choice
    head: Choice
    has_own_translation: bool

    def grid(self) -> list[list[AttentionPanel]]:
        """A row a layer and a column a head, of several sentences side by side."""
        blocks = [self._panels(sentence) for sentence in self.sentences]
        return [[panel for row in rows for panel in row] for rows in zip(*blocks, strict=True)]

    def text(self, columns: int) -> Iterator[str]:
        """For a terminal: one panel below the other."""
        from seqkit.plots.attention_text import attention_panel_text

        is_first = True
        for sentence in self.sentences:
            for row in self._panels(sentence):
                for panel in row:
                    if not is_first:
                        yield ""
                    yield from attention_panel_text(panel, width=columns)
                    is_first = False

    def facts(self) -> dict[str, Any]:
        """What ``--json`` prints."""
        num_layers, num_heads = self.sentences[0].pair.weights_LHQP.shape[:2]
        return {
            "model": str(self.loaded.path),
            "attention": self.kind,
            "num_layers": num_layers,
            "num_heads": num_heads,
            "sentences": [
                {
                    "text": sentence.text,
                    "target": sentence.pair.target,
                    "is_own_translation": self.has_own_translation and sentence.pair.target is not None,
                    "rows": sentence.pair.queries,
                    "columns": sentence.pair.keys,
                    "maps": [
                        {"layer": one.layer, "head": one.head, "weights": one.weights_QP.tolist()}
                        for row in self._maps(sentence)
                        for one in row
                    ],
                }
                for sentence in self.sentences
            ],
        }

    def _maps(self, sentence: _Sentence) -> list[list[AttentionMap]]:
        from seqkit.diagnostics.attention import chosen_maps

        return chosen_maps(sentence.pair.weights_LHQP, self.layer, self.head)

    def _panels(self, sentence: _Sentence) -> list[list[AttentionPanel]]:
        from seqkit.plots.attention_map import AttentionPanel
        from seqkit.plots.piece_labels import token_labels

        target_name = "translation" if self.has_own_translation else "target"
        src_unit, tgt_unit = self.loaded.src.tokenizer.unit, self.loaded.tgt.tokenizer.unit
        match self.kind:
            case "source":
                names, units = (target_name, "source"), (tgt_unit, src_unit)
            case "encoder":
                names, units = ("attending", "attended to"), (src_unit, src_unit)
            case "decoder":
                names, units = ("attending", "attended to"), (tgt_unit, tgt_unit)
        num_layers, num_heads = sentence.pair.weights_LHQP.shape[:2]
        return [
            [
                AttentionPanel(
                    title=_title(one, num_layers, num_heads),
                    query_name=names[0],
                    key_name=names[1],
                    queries=token_labels(sentence.pair.queries, unit=units[0]),
                    keys=token_labels(sentence.pair.keys, unit=units[1]),
                    weights=tuple(map(tuple, one.weights_QP.tolist())),
                )
                for one in row
            ]
            for row in self._maps(sentence)
        ]


def _title(one: AttentionMap, num_layers: int, num_heads: int) -> str:
    """``layer 2, head 1``; what there is one of is not named."""
    parts = []
    if num_layers > 1:
        parts.append(f"mean of {num_layers} layers" if one.layer == "mean" else f"layer {one.layer}")
    if num_heads > 1:
        parts.append(f"mean of {num_heads} heads" if one.head == "mean" else f"head {one.head}")
    return ", ".join(parts) or "attention"


def _check_texts(texts: Sequence[str], targets: Sequence[str] | None, self_of: SelfAttentionOf | None) -> None:
    """Refuse what does not go together, before a model is loaded.

    Raises:
        UsageError: Targets that are not one a text or play no part, or a text that is blank or no single line of UTF-8.
    """
    if targets is not None and self_of is SelfAttentionOf.encoder:
        raise UsageError("--target does nothing with --self encoder, which reads the source only")
    if targets is not None and len(targets) != len(texts):
        raise UsageError(f"--target is given {len(targets)} times for {len(texts)} times --text; give one for each")
    for name, found in [*(("--text", text) for text in texts), *(("--target", text) for text in targets or ())]:
        if "\n" in found:
            raise UsageError(f"{name} takes one line")
        if name == "--text" and not found.strip():
            raise UsageError("--text is blank: there is nothing to look at")
        try:
            found.encode("utf-8")
        except UnicodeEncodeError:
            raise UsageError(f"{name} is not UTF-8") from None


def _choice(flag: str, word: str) -> int | Literal["all", "mean"]:
    """A layer or head as typed.

    Raises:
        UsageError: It is none.
    """
    match word:
        case "all" | "mean":
            return word
        case _ if word.isascii() and word.isdigit() and int(word) > 0:
            return int(word)
    raise UsageError(f"{flag} {word}: expected a number from 1 on, all or mean")


def _check_choice(flag: str, choice: Choice, count: int) -> None:
    if isinstance(choice, int) and choice > count:
        raise UsageError(f"{flag} {choice}: this attention has {count} {flag[2:]}{'' if count == 1 else 's'}")


def _read(
    loaded: LoadedSeq2Seq, texts: Sequence[str], targets: Sequence[str] | None, kind: AttentionKind
) -> list[_Sentence]:
    """Read the sentences with the model.

    Raises:
        DataError: It cannot read one of them.
    """
    from seqkit.tasks.attended_pairs import attend_pair

    sentences = []
    for number, text in enumerate(texts):
        try:
            pair = attend_pair(loaded, text, None if targets is None else targets[number], kind)
        except DataError as error:
            raise DataError(error.message, path=f"--text '{text}'", hint=error.hint) from None
        for remark in pair.remarks:
            console.logger.warning("--text '%s': %s", text, remark)
        if targets is None and pair.target is not None:
            console.logger.info("%s → %s", text, pair.target)
        sentences.append(_Sentence(text=text, pair=pair))
    return sentences
