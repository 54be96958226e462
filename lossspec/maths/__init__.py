"""The vocabulary of `define`, and the error model that it is evaluated in."""

from lossspec.maths import words
from lossspec.maths.number import word

PI = words.PI
absolute = word(words.absolute)
by_convention = word(words.by_convention)
clamped = word(words.clamped)
clamped_log = word(words.clamped_log)
constant = word(words.constant)
exp = word(words.exp)
joined = word(words.joined)
largest = word(words.largest)
log = word(words.log)
log_softmax = word(words.log_softmax)
log_sum_exp = word(words.log_sum_exp)
matvec = word(words.matvec)
maximum = word(words.maximum)
minimum = word(words.minimum)
minus_log_sigmoid = word(words.minus_log_sigmoid)
norm = word(words.norm)
one_hot = word(words.one_hot)
pick = word(words.pick)
positive_part = word(words.positive_part)
repeated = word(words.repeated)
sigmoid = word(words.sigmoid)
softplus = word(words.softplus)
sqrt = word(words.sqrt)
times = word(words.times)
total = word(words.total)
where = word(words.where)
x_log_x = word(words.x_log_x)

__all__ = [
    "PI",
    "absolute",
    "by_convention",
    "clamped",
    "clamped_log",
    "constant",
    "exp",
    "joined",
    "largest",
    "log",
    "log_softmax",
    "log_sum_exp",
    "matvec",
    "maximum",
    "minimum",
    "minus_log_sigmoid",
    "norm",
    "one_hot",
    "pick",
    "positive_part",
    "repeated",
    "sigmoid",
    "softplus",
    "sqrt",
    "times",
    "total",
    "where",
    "x_log_x",
]
