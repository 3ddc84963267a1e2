import pytest
import rivals


@pytest.mark.parametrize(
    ("name", "size", "layers"),
    [
        ("shift_net", 72, {"shift"}),
        ("pic", 32, {"attention", "attention of the discriminators"}),
        ("pconv without VGG16", 128, set()),
    ],
)
def test_a_step_is_measured_beside_the_bare_network_and_its_layer(name, size, layers):
    row = rivals.measure(name, 1, 2, 1, size)
    assert row["step / bare"] > 1.0
    assert row["share of the step"].keys() == layers
    assert all(0.0 < share < 1.0 for share in row["share of the step"].values())
    assert (row["parameters of the discriminator"] > 0) == bool(layers)
