from convscope_export.heads import Head, Heads, heads
from convscope_export.layers import Volume
from convscope_export.notation import EXAMPLE, parse


def test_an_fc_head_stands_against_the_global_average() -> None:
    # By hand: 16*16*12 * 10 + 10 against 12 * 10 + 10.
    assert heads(parse(EXAMPLE)) == Heads(
        input=Volume(depth=12, height=16, width=16),
        fc=Head("FC", "FC(10)", 30_730, 30_720, present=True),
        gap=Head("GAP", "POOL(average, global) -> FC(10)", 130, 120, present=False),
    )


def test_hidden_fc_layers_belong_to_the_head() -> None:
    found = heads(parse("INPUT(8x8x4) -> RELU -> [FC(20) -> RELU]*1 -> FC(5)"))
    assert found.fc.notation == "FC(20) -> RELU -> FC(5)"
    assert found.fc.parameters == 8 * 8 * 4 * 20 + 20 + 20 * 5 + 5
    assert found.fc.multiply_adds == 8 * 8 * 4 * 20 + 20 * 5
    assert found.gap.parameters == 4 * 5 + 5


def test_a_head_by_global_average_stands_against_fc() -> None:
    found = heads(parse("INPUT(8x8x3) -> CONV(10, 1x1) -> POOL(average, global)"))
    assert found.gap == Head("GAP", "POOL(average, global)", 0, 0, present=True)
    assert found.fc == Head("FC", "FC(10)", 640 * 10 + 10, 640 * 10, present=False)
    found = heads(parse("INPUT(8x8x3) -> POOL(average, global) -> FC(2)"))
    assert found.gap == Head("GAP", "POOL(average, global) -> FC(2)", 8, 6, present=True)


def test_a_head_that_could_not_be_built_can_be_counted() -> None:
    found = heads(parse("INPUT(4096x4096x3) -> POOL(average, global) -> FC(1000)"))
    assert found.fc.parameters == 4096 * 4096 * 3 * 1000 + 1000
