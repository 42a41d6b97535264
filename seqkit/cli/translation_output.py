"""How ``seqkit translate`` writes what it found: lines of text, or objects with everything there is to know.

Legend: T target tokens, S source tokens.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, Any

from seqkit.errors import UsageError

if TYPE_CHECKING:
    from seqkit.tasks.translation_requests import Request
    from seqkit.tasks.translator import Translation
    from seqkit.tokenizers.sentences import SentenceVocabulary

_END = "</s>"


class Alignments(StrEnum):
    """What to tell of the attention."""

    soft = "soft"
    hard = "hard"


@dataclass(frozen=True, kw_only=True)
class OutputForm:
    """What is written of each line."""

    as_json: bool
    num_best: int
    with_scores: bool
    alignments: Alignments | None

    def check(self) -> None:
        """Refuse what does not go together.

        Raises:
            UsageError: Two flags contradict each other.
        """
        if self.num_best > 1 and not self.as_json:
            raise UsageError("--n-best gives several translations a line, which needs --json")
        if self.with_scores and self.as_json:
            raise UsageError("--json has the scores already; leave --scores out")
        if self.alignments is Alignments.soft and not self.as_json:
            raise UsageError("--alignments soft is a matrix a line, which needs --json", hint="or --alignments hard")


@dataclass(frozen=True, kw_only=True)
class TranslationWriter:
    """Writes translations in one form."""

    form: OutputForm
    src: SentenceVocabulary
    tgt: SentenceVocabulary
    seed: int | None
    """Of sampled translations."""

    def write(self, line: str, request: Request, translations: list[Translation]) -> str:
        """One line, without its end."""
        if self.form.as_json:
            return json.dumps(self._facts(line, request, translations), ensure_ascii=False)
        best = translations[0]
        if not request.parts:
            return best.text
        fields = [best.text]
        if self.form.with_scores:
            fields.insert(0, f"{best.score:.6f}")
        if self.form.alignments is Alignments.hard:
            # Pairs of source and target positions from 0 on, as Pharaoh and its successors have them.
            fields.append(" ".join(f"{s}-{t}" for t, s in enumerate(hard_alignment(request, best))))
        return "\t".join(fields)

    def _facts(self, line: str, request: Request, translations: list[Translation]) -> dict[str, Any]:
        best = translations[0]
        facts: dict[str, Any] = {"input": line, "output": best.text, "score": best.score}
        if self.form.alignments is not None:
            facts["source_tokens"] = [self.src.tokenizer.token_text(i) for part in request.parts for i in part.ids]
            if self.form.alignments is Alignments.soft:
                facts["source_tokens"].append(_END)
        facts["hypotheses"] = [self._hypothesis(request, translation) for translation in translations]
        if len(request.parts) > 1:
            facts["num_parts"] = len(request.parts)
        if self.seed is not None:
            facts["seed"] = self.seed
        return facts

    def _hypothesis(self, request: Request, translation: Translation) -> dict[str, Any]:
        facts: dict[str, Any] = {
            "output": translation.text,
            "score": translation.score,
            "log_prob": translation.log_prob,
            "num_tokens": translation.num_tokens,
            "is_finished": translation.is_finished,
        }
        if request.constraints:
            facts["meets_constraints"] = translation.meets_constraints
        if self.form.alignments is not None:
            ids = [token_id for hypothesis in translation.hypotheses for token_id in hypothesis.ids]
            facts["target_tokens"] = [self.tgt.tokenizer.token_text(token_id) for token_id in ids]
            is_hard = self.form.alignments is Alignments.hard
            facts["alignment"] = (hard_alignment if is_hard else soft_alignment)(request, translation)
        return facts


def hard_alignment(request: Request, translation: Translation) -> list[int]:
    """For each target token the source token that it attended to most, the source's end left out.

    Returns:
        T positions from 0 on, in the tokens of the line, of all its parts one after the other.
    """
    positions: list[int] = []
    first = 0
    for part, weights in _parts(request, translation):
        for row in weights:
            real = row[: len(part)]
            positions.append(first + real.index(max(real)))
        first += len(part)
    return positions


def soft_alignment(request: Request, translation: Translation) -> list[list[float]]:
    """The attention of each target token to each source token and, in the last column, to the source's end.

    Returns:
        T rows of S + 1 weights that sum to 1; in a line of several parts the weights of other parts are 0.
    """
    num_source = sum(len(part.ids) for part in request.parts)
    rows: list[list[float]] = []
    first = 0
    for part, weights in _parts(request, translation):
        for row in weights:
            after = num_source - first - len(part)
            rows.append([0.0] * first + row[: len(part)] + [0.0] * after + [row[len(part)]])
        first += len(part)
    return rows


def _parts(request: Request, translation: Translation) -> list[tuple[list[int], list[list[float]]]]:
    """Of each part the source tokens, and the attention of each target token to them and the source's end."""
    parts = []
    for part, hypothesis in zip(request.parts, translation.hypotheses, strict=True):
        assert hypothesis.attention is not None, "asked for"
        parts.append((part.ids, hypothesis.attention[: len(hypothesis.ids)].tolist()))
    return parts
