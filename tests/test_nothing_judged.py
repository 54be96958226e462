"""Runs in which nothing was judged, which exit with status 4 and a reason."""

import pytest

import lossspec
from lossspec.errors import EmptyPlan

SPARSE = """
    from torch.nn.functional import l1_loss, mse_loss

    def smooth_l1_loss(input, target, beta=1.0, reduction="mean"):
        if str(input.dtype) != "torch.float32":
            raise NotImplementedError("float32 only")
        return torch.nn.functional.smooth_l1_loss(input, target, beta=beta, reduction=reduction)

    import torch
"""
QUICK = ("--profile=quick", "--clause=value")


def errors(result) -> list[str]:
    return [line for line in (*result.out, *result.err) if line.startswith("ERROR: ")]


def test_an_absent_loss_is_an_error_that_lists_the_present_ones(workplace):
    workplace.write(mylib=SPARSE)
    result = workplace.run("--impl=mylib", "--loss=huber_loss,HuberLoss", *QUICK)
    assert result.status == pytest.ExitCode.USAGE_ERROR
    assert errors(result) == [
        "ERROR: nothing was judged of mylib: mylib has no huber_loss; it has l1_loss, mse_loss, "
        "smooth_l1_loss; nearest: mse_loss"
    ]
    assert set(workplace.verdicts("mylib").values()) == {"unsupported"}


def test_the_error_about_an_absent_loss_names_the_nearest_one(workplace):
    workplace.write(mylib="from torch.nn.functional import smooth_l1_loss, kl_div")
    result = workplace.run("--impl=mylib", "--loss=l1_loss", *QUICK)
    assert result.status == pytest.ExitCode.USAGE_ERROR
    assert errors(result) == [
        "ERROR: nothing was judged of mylib: mylib has no l1_loss; it has kl_div, smooth_l1_loss; "
        "nearest: smooth_l1_loss"
    ]


def test_a_run_succeeds_if_one_of_two_implementations_has_the_loss(workplace):
    workplace.write(mylib=SPARSE)
    result = workplace.run("--impl=mylib,torch.nn.functional", "--loss=huber_loss", *QUICK)
    assert result.status == 0
    assert errors(result) == []
    assert any(
        line.startswith("nothing was judged of mylib: mylib has no huber_loss;")
        for line in result.out
    )
    result = workplace.run("--impl=mylib,mylib:mse_loss", "--loss=mse_loss,huber_loss", *QUICK)
    assert result.status == 0


def test_each_implementation_without_the_loss_is_an_error(workplace):
    workplace.write(mylib=SPARSE, other=SPARSE)
    result = workplace.run("--impl=mylib,other", "--loss=huber_loss", *QUICK)
    assert result.status == pytest.ExitCode.USAGE_ERROR
    assert [line.split()[5] for line in errors(result)] == ["mylib:", "other:"]


def test_a_dtype_that_never_works_judges_nothing(workplace):
    workplace.write(mylib=SPARSE)
    words = ("--impl=mylib", "--loss=smooth_l1_loss", *QUICK)
    result = workplace.run(*words, "--dtype=bfloat16")
    assert result.status == pytest.ExitCode.USAGE_ERROR, result.out
    (said,) = errors(result)
    assert said.startswith(
        "ERROR: nothing was judged of mylib: smooth_l1_loss/value[function-cpu]: unsupported, "
    )
    assert workplace.run(*words, "--dtype=bfloat16,float32").status == 0


def test_a_clause_that_cannot_run_judges_nothing(workplace, monkeypatch):
    from lossspec.clauses import Clause

    workplace.write(mylib=SPARSE)
    monkeypatch.setattr(Clause, "lacks", property(lambda clause: "no compiler is here"))
    result = workplace.run("--impl=mylib", "--loss=l1_loss,mse_loss", *QUICK)
    assert result.status == pytest.ExitCode.USAGE_ERROR
    assert errors(result) == [
        "ERROR: nothing was judged of mylib: l1_loss/value[function-cpu]: unsupported, no compiler "
        "is here; mse_loss/value[function-cpu]: unsupported, no compiler is here"
    ]


def test_cells_that_are_all_inconclusive_judge_nothing(workplace):
    workplace.write(mylib="from torch.nn.functional import triplet_margin_loss")
    words = (
        "--impl=mylib",
        "--loss=triplet_margin_loss",
        "--clause=mean-of-many",  # it judges float16 only
        "--dtype=float64",
        "--profile=quick",
    )
    result = workplace.run(*words)
    if set(workplace.verdicts("mylib").values()) != {"inconclusive"}:
        pytest.fail(f"choose another clause: {workplace.verdicts('mylib')}")
    assert result.status == pytest.ExitCode.USAGE_ERROR
    assert len(errors(result)) == 1


def test_require_all_fails_for_an_absent_loss(workplace):
    workplace.write(mylib=SPARSE)
    result = workplace.run("--impl=mylib", "--loss=huber_loss", *QUICK, "--require-all")
    assert result.status == pytest.ExitCode.TESTS_FAILED
    assert errors(result) == []


def test_workers_report_that_nothing_was_judged(workplace):
    workplace.write(mylib=SPARSE)
    words = ("-m", "pytest", "--pyargs", "lossspec.suites", "-p", "no:cacheprovider", *QUICK)
    result = workplace.apart(*words, "--impl=mylib", "--loss=huber_loss,kl_div", "-n", "2")
    assert result.status == pytest.ExitCode.USAGE_ERROR, result.out
    assert len(errors(result)) == 1


def test_an_empty_shard_is_an_error_only_if_every_shard_is_empty(workplace):
    workplace.write(mylib=SPARSE)
    for losses, status in (("l1_loss,huber_loss", 0), ("huber_loss", 4)):
        for part in (1, 2, 3):
            words = ("--impl=mylib", f"--loss={losses}", *QUICK, f"--shard={part}/3")
            result = workplace.run(*words)
            assert result.status == status, (losses, part, result.out)
            assert len(errors(result)) == (status == 4)


def test_an_empty_shard_is_no_error_beside_another_implementation(workplace):
    workplace.write(mylib=SPARSE)
    for part in (1, 2):
        words = ("--impl=mylib,torch.nn.functional", "--loss=huber_loss", f"--shard={part}/2")
        result = workplace.run(*words, *QUICK)
        assert (result.status, errors(result)) == (0, []), result.out


def test_a_run_without_tests_keeps_the_status_of_pytest(workplace):
    workplace.write(mylib=SPARSE)
    words = ("--impl=mylib", "--loss=huber_loss", *QUICK)
    assert workplace.run(*words, "-k", "nosuch").status == pytest.ExitCode.NO_TESTS_COLLECTED
    assert workplace.run(*words, "--collect-only").status == 0


def test_parametrize_refuses_absent_losses():
    def mse_loss(input, target):
        raise AssertionError("not called")

    mine = lossspec.Implementation("mine", {"mse_loss": mse_loss})
    with pytest.raises(EmptyPlan) as caught:
        lossspec.parametrize(mine, losses=["nll_loss", "huber_loss"])
    assert str(caught.value).startswith(
        "nothing to judge: mine has no huber_loss, nll_loss; it has mse_loss"
    )


def test_a_parametrized_test_that_judges_nothing_is_skipped(workplace):
    workplace.write(
        mine="""
            def l1_loss(input, target):
                raise NotImplementedError("not yet")
        """,
        test_mine="""
            import lossspec

            @lossspec.parametrize("mine", losses=["l1_loss"], clauses=["value"])
            def test_conformance(judge):
                judge()
        """,
    )
    words = ["-q", "-rs", "-p", "no:cacheprovider", "-p", "no:faulthandler"]
    result = workplace.within(lambda: pytest.main(words))
    assert "1 skipped" in result.out[-1], result.out
    assert any("unsupported: " in line or "inconclusive: " in line for line in result.out)
