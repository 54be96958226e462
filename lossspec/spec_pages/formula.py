"""Convert a formula from LaTeX to lines of plain text for a terminal."""

from __future__ import annotations

import re

#: LaTeX commands and their signs.
_TABLE = r"""
\alpha α \beta β \gamma γ \delta δ \epsilon ε \varepsilon ε \zeta ζ \eta η \theta θ \vartheta ϑ
\iota ι \kappa κ \lambda λ \mu μ \nu ν \xi ξ \pi π \rho ρ \sigma σ \tau τ \phi φ \varphi φ
\chi χ \psi ψ \omega ω \Gamma Γ \Delta Δ \Theta Θ \Lambda Λ \Xi Ξ \Pi Π \Sigma Σ \Phi Φ \Psi Ψ
\Omega Ω \ell ℓ \partial ∂ \infty ∞ \cdot · \times × \odot ⊙ \circ ∘ \pm ± \sum Σ \prod Π
\prime ' \top ᵀ \dots … \ldots … \cdots … \le ≤ \leq ≤ \ge ≥ \geq ≥ \ne ≠ \neq ≠ \in ∈ \notin ∉
\subset ⊂ \sim ~ \approx ≈ \to → \mapsto ↦ \mid | \vert | \Vert ‖ \| ‖
"""
_COMMANDS = [command.removeprefix("\\") for command in _TABLE.split()[::2]]
_SIGNS = dict(zip(_COMMANDS, _TABLE.split()[1::2], strict=True))
#: Brackets, with a mark on the inner side, where spaces are removed.
_SIGNS |= {"lVert": "‖\x01", "rVert": "\x02‖", "lvert": "|\x01", "rvert": "\x02|"}
_SIGNS |= {"langle": "⟨\x01", "rangle": "\x02⟩", "lfloor": "⌊\x01", "rfloor": "\x02⌋"}
_SIGNS |= {"lceil": "⌈\x01", "rceil": "\x02⌉"}
_SIGNS |= {",": " ", ";": " ", ":": " ", " ": " ", "!": ""}
_SIGNS |= dict.fromkeys(("left", "right", "big", "Big", "bigl", "bigr", "limits"), "")
_FONTS = {"text", "mathrm", "mathbf", "mathit", "mathcal", "operatorname", "textrm", "boldsymbol"}
_FRACTIONS = {"12": "½", "14": "¼", "34": "¾", "13": "⅓", "23": "⅔"}
_RAISED = dict(zip("0123456789+-ijknpxyTᵀ'", "⁰¹²³⁴⁵⁶⁷⁸⁹⁺⁻ⁱʲᵏⁿᵖˣʸᵀᵀ'", strict=True))
_LOWERED = dict(zip("0123456789+-ijknpt", "₀₁₂₃₄₅₆₇₈₉₊₋ᵢⱼₖₙₚₜ", strict=True))

_TOKEN = re.compile(r"\\[A-Za-z]+|\\.|[{}^_&']|\s+|.", re.DOTALL)
_CASES = re.compile(r"\\begin\{(cases|aligned)\}(.*?)\\end\{\1\}", re.DOTALL)
_QUAD = re.compile(r"\\q?quad\b")
#: Marks a space that is needed only between two words.
_SEAM = "\0"


def plain(latex: str) -> str:
    r"""Return a formula in Unicode signs, as lines of text.

    Parts that `\quad` separates get a line each. An unknown command is kept without its backslash.

    Example:
        >>> plain(r"\ell(x, y) = w\,(x - y)^2")
        'ℓ(x, y) = w (x - y)²'
    """
    hidden = _CASES.sub(lambda found: found[0].replace(r"\quad", r"\;"), latex)
    return "\n".join("\n".join(_block(part)) for part in _QUAD.split(hidden) if part.strip())


def _block(latex: str) -> list[str]:
    """Return the lines of one statement; a choice of cases gets a brace of several lines."""
    found = _CASES.search(latex)
    if found is None:
        return [_line(latex)]
    before, after = _line(latex[: found.start()]), _block(latex[found.end() :])
    rows = [[_line(cell) for cell in row.split("&")] for row in re.split(r"\\\\", found[2])]
    width = max(len(row[0]) for row in rows)
    cells = ["   ".join([row[0].ljust(width), *row[1:]]).rstrip() for row in rows]
    brace = _brace(len(cells)) if found[1] == "cases" else [" "] * len(cells)
    middle = (len(cells) - 1) // 2
    lead = [(before if i == middle else "").ljust(len(before)) for i in range(len(cells))]
    lines = [f"{a} {b} {c}" for a, b, c in zip(lead, brace, cells, strict=True)]
    if after[0] not in (",", ".", ";", ""):
        lines[middle] += f"   {after[0]}"
    return lines + after[1:]


def _brace(height: int) -> list[str]:
    if height == 1:
        return ["{"]
    return ["⎧", *["⎨" if i == (height - 1) // 2 else "⎪" for i in range(1, height - 1)], "⎩"]


def _line(latex: str) -> str:
    text = _Reader(_TOKEN.findall(latex)).read()
    text = re.sub(r"\s+", " ", re.sub(f"{_SEAM}+", _seam, text))
    text = re.sub(r"\x01 ?| ?\x02|(?<=[(\[]) | (?=[)\],;])", "", text).strip()
    # A fraction that is a whole side of an equation needs no brackets.
    return re.sub(r"(?<== )\(((?:[^()]|\([^()]*\))*)\)$", r"\1", text)


def _seam(found: re.Match[str]) -> str:
    """Return a space, unless a space or bracket is there already, or a function is called."""
    before, after = found.string[: found.start()], found.string[found.end() :]
    called = after.startswith("(") and re.search(r"[^\W\d_]{2,}$", before)
    return "" if called or not before or before[-1] in " ([-\x01" or not after else " "


class _Reader:
    """A reader that turns tokens into text, one after the other."""

    def __init__(self, tokens: list[str]) -> None:
        self.tokens = tokens[::-1]

    def read(self, until: str = "") -> str:
        """Return the text up to the token `until`, or to the end."""
        out: list[str] = []
        while self.tokens:
            token = self.tokens.pop()
            if token == until:
                break
            out.append(self._one(token, out))
        return "".join(out)

    def _argument(self) -> str:
        """Return the argument of a command: a group in braces or a single sign."""
        while self.tokens and self.tokens[-1].isspace():
            self.tokens.pop()
        if not self.tokens:
            return ""
        token = self.tokens.pop()
        return self.read("}") if token == "{" else self._one(token, [])

    def _one(self, token: str, before: list[str]) -> str:
        if token == "{":
            return self.read("}")
        if token in ("^", "_"):
            return self._script(token, before)
        if not token.startswith("\\"):
            return "" if token in "}&" else token
        name = token[1:]
        if name in ("frac", "tfrac", "dfrac"):
            return self._fraction()
        if name == "sqrt":
            return f"√({self._argument().strip()})"
        if name in ("hat", "bar", "tilde", "overline"):
            return self._argument() + {"hat": "̂", "tilde": "̃"}.get(name, "̄")
        if name in _FONTS:
            return self._argument()
        if name in _SIGNS:
            return _SIGNS[name]
        return f"{_SEAM}{name}{_SEAM}" if name.isalpha() else name

    def _fraction(self) -> str:
        above, below = self._argument().strip(), self._argument().strip()
        if above + below in _FRACTIONS:
            return f"{_FRACTIONS[above + below]} "
        return f"{_SEAM}({_whole(above, '+-')} / {_whole(below, '+-/ ')}){_SEAM}"

    def _script(self, token: str, before: list[str]) -> str:
        text = self._argument().strip()
        base = before[-1] if before else ""
        if token == "^" and base == "e":
            before[-1] = f"{_SEAM}exp"
            return f"({text})"
        table = _RAISED if token == "^" else _LOWERED
        if all(char in table for char in text):
            return "".join(table[char] for char in text)
        if base in ("Σ", "Π") and len(text) > 1:
            if self.tokens and self.tokens[-1] == "^":
                self.tokens.pop()
                text += f" .. {self._argument().strip()}"
            return f"[{text}]{_SEAM}"
        if len(text) == 1 or (text.isascii() and text.isalnum()):
            return f"{token}{text}"
        if token == "_":
            return f"[{text}]"
        return f"^{text}" if text.startswith("(") else f"^({text})"


def _whole(text: str, splits: str) -> str:
    """Return text in brackets if one of the signs `splits` occurs outside of brackets."""
    depth = 0
    for char in text:
        depth += (char in "([") - (char in ")]")
        if not depth and char in splits:
            return f"({text})"
    return text
