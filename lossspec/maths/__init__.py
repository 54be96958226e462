"""The vocabulary of `define`, and the error model that it is evaluated in."""

from lossspec.maths import words
from lossspec.maths.number import word

PI = words.PI
absolute = word(words.absolute)
acos = word(words.acos)
argsort = word(words.argsort)
by_convention = word(words.by_convention)
clamped = word(words.clamped)
clamped_log = word(words.clamped_log)
constant = word(words.constant)
cumulative_sum = word(words.cumulative_sum)
erf = word(words.erf)
exp = word(words.exp)
expm1 = word(words.expm1)
joined = word(words.joined)
largest = word(words.largest)
log = word(words.log)
log1p = word(words.log1p)
log_softmax = word(words.log_softmax)
log_sum_exp = word(words.log_sum_exp)
logaddexp = word(words.logaddexp)
matmul = word(words.matmul)
matvec = word(words.matvec)
maximum = word(words.maximum)
mean = word(words.mean)
minimum = word(words.minimum)
minus_log_sigmoid = word(words.minus_log_sigmoid)
norm = word(words.norm)
one_hot = word(words.one_hot)
pairwise_distances = word(words.pairwise_distances)
pick = word(words.pick)
positive_part = word(words.positive_part)
product = word(words.product)
rank = word(words.rank)
repeated = word(words.repeated)
sigmoid = word(words.sigmoid)
softmax = word(words.softmax)
softplus = word(words.softplus)
sort = word(words.sort)
sqrt = word(words.sqrt)
tanh = word(words.tanh)
times = word(words.times)
total = word(words.total)
transposed = word(words.transposed)
where = word(words.where)
x_log_x = word(words.x_log_x)

__all__ = [
    "PI",
    "absolute",
    "acos",
    "argsort",
    "by_convention",
    "clamped",
    "clamped_log",
    "constant",
    "cumulative_sum",
    "erf",
    "exp",
    "expm1",
    "joined",
    "largest",
    "log",
    "log1p",
    "log_softmax",
    "log_sum_exp",
    "logaddexp",
    "matmul",
    "matvec",
    "maximum",
    "mean",
    "minimum",
    "minus_log_sigmoid",
    "norm",
    "one_hot",
    "pairwise_distances",
    "pick",
    "positive_part",
    "product",
    "rank",
    "repeated",
    "sigmoid",
    "softmax",
    "softplus",
    "sort",
    "sqrt",
    "tanh",
    "times",
    "total",
    "transposed",
    "where",
    "x_log_x",
]
