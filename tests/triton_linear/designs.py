"""The designs of the linear Triton family: every bias in each of its forms, both gates, learned and zero starts."""

from miras_search.algorithm import GradientDescent
from miras_search.bias import L1, L2, Dot, Huber, Lp, PseudoHuber, Robust
from miras_search.design import Design
from miras_search.memory import Matrix
from miras_search.retention import L2Retention, NoRetention

CHUNKS = GradientDescent(chunk=16)


def design(bias, retention=None, algorithm=CHUNKS):
    return Design(memory=Matrix(), bias=bias, retention=retention or L2Retention(), algorithm=algorithm)


DESIGNS = {
    "dot": design(Dot()),
    "l2": design(L2()),
    "l2 without gate": design(L2(), NoRetention()),
    "l2 in chunks of 12": design(L2(), algorithm=GradientDescent(chunk=12)),
    "lp potential": design(Lp(p=1.5, cap="none")),
    "lp potential, cap": design(Lp(p=3.0, cap="norm")),
    "lp surrogate, cap, factor": design(Lp(p=2.5, form="surrogate", factor="paper", cap="norm")),
    "huber coordinate": design(Huber(form="coordinate")),
    "huber norm": design(Huber(form="norm")),
    "huber mixture": design(Huber(form="mixture", nu=1.5)),
    "l1": design(L1()),
    "pseudo-huber norm": design(PseudoHuber()),
    "robust": design(Robust()),
}
