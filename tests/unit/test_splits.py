"""What is held out is decided by a file's name, for good."""

from enhance_ray.training.splits import held_out


def test_these_names_stay_where_they_are():
    names = ["sim_car_0004", "sim_small_0008", "sim_medium_0160", "sim_large_0181", "room"]
    assert [held_out(name) for name in names] == [False, True, True, True, False]


def test_folder_and_extension_do_not_matter():
    assert {
        held_out(f"{folder}sim_small_0008{suffix}")
        for folder in ("", "a/b/")
        for suffix in ("", ".npy", ".wav")
    } == {True}


def test_about_one_in_every_is_held_out():
    for every in (2, 8):
        share = sum(held_out(f"room_{i:05d}", every) for i in range(20_000)) / 20_000
        assert abs(share - 1 / every) < 0.01
