"""Reading the data sets in the layouts that people have, and naming what is malformed without falling over it."""

import json
import os
import pickle
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import trees
from peekaboo.errors import DatasetError, PeekabooError
from peekaboo.evaluation.datasets import read_dataset
from peekaboo.evaluation.run import score_sample
from peekaboo.evaluation.voc import CLASSES

SAMPLE = Path(os.environ.get("PEEKABOO_COCO", Path(__file__).parents[2] / "shared" / "data" / "coco-sample"))


@pytest.fixture
def voc(tmp_path) -> trees.Voc:
    tree = trees.Voc(tmp_path)
    tree.add("2007_000001", {"sheep": (20, 30, 170, 190)})
    tree.add("2007_000002", {"person": (5, 10, 60, 180), "dog": (80, 10, 179, 190)}, border=3)
    tree.add("2007_000003", {"bus": (20, 30, 140, 150)})  # 120 pixels: too small for VOC-C
    tree.add("2008_000004", {"cow": (0, 0, 180, 150)}, split="train")
    return tree


def test_voc_c_takes_single_large_objects_and_crops_to_the_box_and_ten_pixels(voc, tmp_path):
    data = read_dataset("voc-c", tmp_path)
    assert [(s.key, s.prompts, s.crop) for s in data.samples] == [
        ("2008_000004", ("cow",), (0, 0, 180, 160)),
        ("2007_000001", ("sheep",), (10, 20, 180, 200)),
    ]
    assert [s.key for s in read_dataset("voc-c", tmp_path, split="val").samples] == ["2007_000001"]
    loaded = data.samples[1].load()
    assert loaded.rgb.shape == (180, 170, 3)
    expected = np.zeros((1, 180, 170), bool)
    expected[0, 10:170, 10:160] = True
    assert np.array_equal(loaded.masks, expected)
    assert score_sample(trees.Painter(), data.samples[1]).iou > 0.99
    assert data.problems == []


def test_voc_c_measures_the_longer_side_and_128_itself_is_not_enough(tmp_path):
    tree = trees.Voc(tmp_path)
    tree.add("a", {"sheep": (10, 10, 139, 20)})  # xmax - xmin = 128
    tree.add("b", {"sheep": (10, 10, 140, 20)})
    tree.add("c", {"sheep": (10, 10, 20, 140)})
    assert [s.key for s in read_dataset("voc-c", tmp_path).samples] == ["b", "c"]


@pytest.mark.parametrize("inner", ["", "VOCdevkit", "VOCdevkit/VOC2012"])
def test_voc_is_found_from_any_of_its_folders(voc, tmp_path, inner):
    assert len(read_dataset("voc", tmp_path / inner).samples) == 3


@pytest.mark.parametrize("above", ["VOCtrainval_11-May-2012", "TrainVal"])
def test_voc_is_found_where_archives_put_it(tmp_path, above):
    trees.Voc(tmp_path / above).add("a", {"sheep": (20, 30, 170, 190)})
    assert len(read_dataset("voc", tmp_path).samples) == 1


def test_voc_asks_all_classes_or_those_present_and_does_not_count_the_border(voc, tmp_path):
    every = read_dataset("voc", tmp_path)
    assert every.classes == ("background", *CLASSES)
    assert all(s.prompts == CLASSES for s in every.samples)
    present = read_dataset("voc", tmp_path, prompts="present")
    assert [s.prompts for s in present.samples] == [("sheep",), ("dog", "person"), ("bus",)]
    loaded = present.samples[1].load()
    dog = np.zeros((200, 180), bool)
    dog[13:187, 83:176] = True
    assert np.array_equal(loaded.masks[0], dog)
    assert not loaded.valid[10, 80]
    assert loaded.valid.sum() == 200 * 180 - (170 * 55 - 164 * 49) - (180 * 99 - 174 * 93)
    assert "given away" in present.protocol
    assert present.fingerprint() != every.fingerprint()


def broken_voc(home: Path, key: str) -> None:
    labels, xml = home / "SegmentationClass" / f"{key}.png", home / "Annotations" / f"{key}.xml"
    good = trees.annotation((200, 180), [("sheep", (10, 10, 160, 180))])
    changes = {
        "absent": lambda: xml.unlink(),
        "torn": lambda: xml.write_text(good[:60]),
        "unknown": lambda: xml.write_text(good.replace("sheep", "unicorn")),
        "nobox": lambda: xml.write_text(good.replace("bndbox", "box")),
        "nonumber": lambda: xml.write_text(good.replace("<xmin>11<", "<xmin>wide<")),
        "notanumber": lambda: xml.write_text(good.replace("<xmin>11<", "<xmin>nan<")),
        "backwards": lambda: xml.write_text(good.replace("<xmin>11<", "<xmin>170<")),
        "outside": lambda: xml.write_text(good.replace("<width>180", "<width>5")),
        "nosize": lambda: xml.write_text(good.replace("size>", "extent>")),
        "colours": lambda: Image.new("RGB", (180, 200)).save(labels),
    }
    changes[key]()


BROKEN = ["absent", "torn", "unknown", "nobox", "nonumber", "notanumber", "backwards", "outside", "nosize"]


def test_each_malformed_annotation_of_voc_is_named_and_skipped(voc, tmp_path):
    for key in BROKEN:
        voc.add(key, {"sheep": (10, 10, 160, 180)})
        broken_voc(voc.home, key)
    data = read_dataset("voc-c", tmp_path)
    assert len(data.samples) == 2
    assert [Path(problem.split(" was skipped")[0]).stem for problem in data.problems] == BROKEN
    assert all(problem.count("\n") == 0 and problem.endswith(".") for problem in data.problems)
    assert "unicorn" in data.problems[2]


def test_labels_that_are_colours_or_out_of_range_are_named(voc, tmp_path):
    voc.add("colours", {"sheep": (10, 10, 160, 180)})
    broken_voc(voc.home, "colours")
    voc.add("strange", {"sheep": (10, 10, 160, 180)})
    Image.fromarray(np.full((200, 180), 99, np.uint8)).save(voc.home / "SegmentationClass" / "strange.png")
    data = read_dataset("voc", tmp_path, prompts="present")
    assert len(data.samples) == 3
    assert "mode RGB" in data.problems[0]
    assert "label 99" in data.problems[1]
    late = next(s for s in read_dataset("voc", tmp_path).samples if s.key == "strange")
    with pytest.raises(DatasetError, match=r"strange\.png holds the label 99"):
        late.load()


@pytest.mark.parametrize(
    ("name", "choices", "says"),
    [
        ("voc", {"split": "test"}, "no split 'test'"),
        ("voc", {"split_by": "unc"}, "--split-by has no meaning for voc"),
        ("voc", {"prompts": "some"}, "--prompts some"),
        ("voc-c", {"prompts": "all"}, "--prompts has no meaning"),
        ("ade20k", {}, "no benchmark 'ade20k'"),
        ("refcoco", {}, "holds no refcoco"),
        ("coco", {}, "holds no instances.json"),
        ("folder", {}, "no table"),
    ],
)
def test_wrong_choices_and_layouts_are_one_sentence(voc, tmp_path, name, choices, says):
    with pytest.raises(DatasetError, match=says):
        read_dataset(name, tmp_path, **choices)


def test_a_root_that_is_not_there(tmp_path):
    with pytest.raises(DatasetError, match=r"There is no .*absent; --root"):
        read_dataset("voc", tmp_path / "absent")


IMAGES = ["images/train2014", "train2014", "images/mscoco/images/train2014", "refcoco/images", "coco/train2014"]


@pytest.mark.parametrize("images", IMAGES)
def test_refcoco_is_one_sample_a_sentence_wherever_the_pictures_lie(tmp_path, images):
    trees.refcoco(tmp_path, images=images)
    data = read_dataset("refcoco", tmp_path)
    found = [(s.key, s.prompts) for s in data.samples]
    assert found == [("2 20", ("left red",)), ("1 10", ("café green",)), ("1 11", ("the one that is green",))]
    painter = trees.Painter()
    assert [score_sample(painter, s).iou for s in data.samples] == [1.0, 1.0, 1.0]
    assert painter.asked == [("left red",), ("café green",), ("the one that is green",)]
    assert data.problems == []


def test_refcoco_from_its_own_folder_from_data_and_with_images_elsewhere(tmp_path):
    home = trees.refcoco(tmp_path / "data", images="pictures")
    with pytest.raises(DatasetError, match="--images"):
        read_dataset("refcoco", tmp_path)
    for root in (tmp_path, tmp_path / "data", home):
        assert len(read_dataset("refcoco", root, images=tmp_path / "data" / "pictures").samples) == 3


@pytest.mark.parametrize(("name", "by"), [("refcoco", "unc"), ("refcoco+", "unc"), ("refcocog", "umd")])
def test_the_usual_partition_is_taken_and_another_by_name(tmp_path, name, by):
    home = trees.refcoco(tmp_path, name, by)
    assert read_dataset(name, tmp_path, split="testA").samples[0].prompts == ("blue",)
    (home / f"refs({by}).p").rename(home / "refs(google).p")
    with pytest.raises(DatasetError, match=r"refs\(google\)\.p|google"):
        read_dataset(name, tmp_path)
    assert len(read_dataset(name, tmp_path, split_by="google").samples) == 3
    with pytest.raises(DatasetError, match="no split 'testC'; it has testA, val"):
        read_dataset(name, tmp_path, split="testC", split_by="google")


def changed_reference(number: int, **changes) -> dict:
    return {**trees.references()[1], "ref_id": number, **changes}


def test_each_malformed_reference_is_named_and_skipped(tmp_path):
    home = trees.refcoco(tmp_path)
    other = [{"sent_id": 50, "sent": "red"}]
    bad = [
        "no dictionary",
        changed_reference(10, ann_id=999),
        changed_reference(11, ann_id=[1]),
        changed_reference(12, image_id=11),
        changed_reference(13, sentences=[]),
        changed_reference(14, sentences=[{"sent_id": 1, "sent": "  "}]),
        changed_reference(15, sentences="red"),
        changed_reference(16, split=7),
        {k: v for k, v in changed_reference(17).items() if k != "ref_id"},
        changed_reference(2, sentences=[{"sent_id": 20, "sent": "again"}]),
    ]
    good = [*trees.references(), changed_reference(30, sentences=other)]
    (home / "refs(unc).p").write_bytes(pickle.dumps([*good, *bad], 2))
    data = read_dataset("refcoco", tmp_path)
    assert sorted(s.key for s in data.samples) == ["1 10", "1 11", "2 20", "30 50"]
    assert len(data.problems) == len(bad)
    assert all("refs(unc).p, reference " in problem for problem in data.problems)
    numbers = {int(problem.split("reference ")[1].split()[0]) for problem in data.problems}
    assert numbers == set(range(4, 14))


@pytest.mark.parametrize("value", [{"a": 1}, "text", 7, None])
def test_refcoco_pickles_of_something_else(tmp_path, value):
    home = trees.refcoco(tmp_path)
    (home / "refs(unc).p").write_bytes(pickle.dumps(value, 2))
    with pytest.raises(DatasetError, match="no list of references"):
        read_dataset("refcoco", tmp_path)


def test_coco_unites_a_categorys_instances_and_does_not_count_its_crowds(tmp_path):
    trees.coco(tmp_path, tmp_path / "images")
    data = read_dataset("coco", tmp_path)
    assert [s.key for s in data.samples] == ["2 red", "2 green", "5 red", "11 green", "11 blue"]
    red, green = data.samples[0].load(), data.samples[1].load()
    assert red.masks.sum() == 10 * 10 + 10 * 8
    assert red.valid.all()
    assert green.masks.sum() == 10 * 6
    assert (~green.valid).sum() == 4 * 20
    assert score_sample(trees.Painter(), data.samples[1]).iou == 1.0


def test_coco_alone_in_their_category_and_large_enough(tmp_path):
    trees.coco(tmp_path, tmp_path / "images")
    assert [s.key for s in read_dataset("coco", tmp_path, alone=True).samples] == ["5 red", "11 green", "11 blue"]
    large = read_dataset("coco", tmp_path, alone=True, least_area=0.05).samples
    assert [s.key for s in large] == ["5 red", "11 green"]
    with pytest.raises(DatasetError, match="--least-area"):
        read_dataset("coco", tmp_path, least_area=1.5)


@pytest.mark.parametrize(
    ("file", "images", "split"),
    [
        ("annotations/instances_val2017.json", "val2017", None),
        ("annotations/instances_val2014.json", "images/val2014", "val"),
        ("instances_train2017.json", "images/train2017", "train"),
        ("annotations/instances.json", "images", None),
    ],
)
def test_coco_in_the_layouts_of_its_releases(tmp_path, file, images, split):
    trees.coco(tmp_path, tmp_path / images)
    path = tmp_path / file
    path.parent.mkdir(exist_ok=True)
    (tmp_path / "instances.json").rename(path)
    assert len(read_dataset("coco", tmp_path, split=split).samples) == 5
    assert len(read_dataset("coco", path, split=split, images=tmp_path / images).samples) == 5
    assert len(read_dataset("coco", path).samples) == 5  # the file tells its split


def test_coco_by_the_name_of_its_folder(tmp_path):
    trees.coco(tmp_path, tmp_path / "val2017")
    (tmp_path / "instances.json").rename(tmp_path / "instances_val2017.json")
    assert len(read_dataset("coco", tmp_path, split="val2017").samples) == 5


def test_each_malformed_record_of_coco_is_named_and_skipped(tmp_path):
    data = trees.coco(tmp_path, tmp_path / "images")
    a = data["annotations"]
    a[0]["segmentation"] = [[1, 2, 3]]  # 5 red
    a.append({**a[1], "id": 200, "image_id": 77})
    a.append({**a[1], "id": 201, "category_id": 77})
    a.append({**a[1], "id": 202, "image_id": [3]})
    a.append({"id": 203})
    a.append({**a[1], "id": "nine"})
    a.append("nothing")
    data["images"][1]["height"] = "tall"  # 11: both of its samples
    (tmp_path / "instances.json").write_text(json.dumps(data))
    found = read_dataset("coco", tmp_path)
    assert [s.key for s in found.samples] == ["2 red", "2 green"]
    text = "\n".join(found.problems)
    for where in (
        "annotation 100 ",
        "annotation 101 ",
        "annotation 102 ",
        "annotation 200 ",
        "annotation 201 ",
        "annotation 202 ",
    ):
        assert where in text, text
    assert "annotation 203 was skipped: it lacks 'image_id'" in text
    assert "annotations[11] " in text
    assert "annotations[12] " in text
    assert len(found.problems) == 9


@pytest.mark.parametrize(
    "text", ["", "{", "[]", "{}", '{"images": 3, "annotations": [], "categories": []}', "[" * 100000]
)
def test_coco_files_that_are_none(tmp_path, text):
    (tmp_path / "instances.json").write_text(text)
    with pytest.raises(DatasetError, match="instances"):
        read_dataset("coco", tmp_path)


def test_a_folder_of_ones_own(tmp_path):
    table = trees.own(tmp_path)
    data = read_dataset("folder", tmp_path)
    assert [s.prompts for s in data.samples] == [("something red",), ("green",)]
    assert [score_sample(trees.Painter(), s).iou for s in data.samples] == [1.0, 1.0]
    assert [s.key for s in read_dataset("folder", table).samples] == [s.key for s in data.samples]


def test_masks_by_transparency(tmp_path):
    trees.own(tmp_path)
    image = Image.open(tmp_path / "images" / "one.png").convert("RGBA")
    image.putalpha(Image.open(tmp_path / "masks" / "red.png"))
    image.save(tmp_path / "masks" / "red.png")
    assert score_sample(trees.Painter(), read_dataset("folder", tmp_path).samples[0]).iou == 1.0


@pytest.mark.parametrize("mode", ["RGBA", "LA"])
def test_an_alpha_that_is_full_everywhere_is_no_mask(tmp_path, mode):
    """Many editors write one."""
    trees.own(tmp_path)
    mask = tmp_path / "masks" / "red.png"
    Image.open(mask).convert("L").convert(mode).save(mask)
    assert score_sample(trees.Painter(), read_dataset("folder", tmp_path).samples[0]).iou == 1.0


def test_a_name_that_no_disk_holds_is_skipped(tmp_path):
    trees.own(tmp_path, [("one.png", "red.png", "red"), ("x" * 300 + ".png", "red.png", "red")])
    data = read_dataset("folder", tmp_path)
    assert (len(data.samples), len(data.problems)) == (1, 1)


def test_each_malformed_line_of_a_folder_is_named_and_skipped(tmp_path):
    rows = [
        ("one.png", "red.png", "red"),
        ("absent.png", "red.png", "red"),
        ("one.png", "absent.png", "red"),
        ("one.png", "red.png", "  "),
        ("", "red.png", "red"),
        ("one.png", "red.png", "red"),
    ]
    table = trees.own(tmp_path, rows)
    with table.open("a") as file:
        file.write("short\n")
    data = read_dataset("folder", tmp_path)
    assert len(data.samples) == 1
    assert sorted(int(p.split("line ")[1].split()[0]) for p in data.problems) == [3, 4, 5, 6, 7, 8]
    assert any("its key" in p and "came before" in p for p in data.problems)


def test_a_table_without_its_columns(tmp_path):
    trees.own(tmp_path)
    (tmp_path / "prompts.csv").write_text("picture,mask,prompt\n")
    with pytest.raises(DatasetError, match="lacks the column image"):
        read_dataset("folder", tmp_path)
    (tmp_path / "prompts.csv").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(DatasetError, match="no CSV file in UTF-8"):
        read_dataset("folder", tmp_path)
    (tmp_path / "prompts.csv").write_text("image,mask,prompt\n")
    with pytest.raises(DatasetError, match="holds no sample"):
        read_dataset("folder", tmp_path)


@pytest.mark.parametrize("what", ["absent", "text", "size", "mode"])
def test_a_mask_that_cannot_be_used_is_named_when_it_is_its_turn(tmp_path, what):
    trees.own(tmp_path)
    mask = tmp_path / "masks" / "red.png"
    sample = read_dataset("folder", tmp_path).samples[0]
    {
        "absent": lambda: mask.unlink(),
        "text": lambda: mask.write_text("no mask"),
        "size": lambda: Image.new("L", (3, 5), 255).save(mask),
        "mode": lambda: Image.new("LAB", (3, 5)).save(mask, "TIFF"),
    }[what]()
    with pytest.raises(PeekabooError, match=r"red\.png"):
        score_sample(trees.Painter(), sample)


def test_a_data_set_that_moved_is_the_same_and_one_that_changed_is_not(tmp_path):
    trees.coco(tmp_path / "one", tmp_path / "one" / "images")
    before = read_dataset("coco", tmp_path / "one").fingerprint()
    shutil.move(tmp_path / "one", tmp_path / "two")
    assert read_dataset("coco", tmp_path / "two").fingerprint() == before
    data = json.loads((tmp_path / "two" / "instances.json").read_text())
    data["annotations"][0]["segmentation"][0][0] += 1
    (tmp_path / "two" / "instances.json").write_text(json.dumps(data))
    assert read_dataset("coco", tmp_path / "two").fingerprint() != before


def test_another_mask_in_a_file_of_the_same_name_is_another_data_set(tmp_path, voc):
    trees.own(tmp_path / "own")
    mask = tmp_path / "own" / "masks" / "red.png"
    labels = next(tmp_path.rglob("SegmentationClass/*.png"))
    for name, root, file in (("folder", tmp_path / "own", mask), ("voc", tmp_path, labels)):
        before = read_dataset(name, root).fingerprint()
        with Image.open(file) as image:
            image.transpose(Image.Transpose.FLIP_TOP_BOTTOM).save(file)
        assert read_dataset(name, root).fingerprint() != before


@pytest.mark.skipif(not SAMPLE.is_dir(), reason="the sample of COCO's photographs is not here (PEEKABOO_COCO names it)")
def test_real_photographs_with_polygons():
    data = read_dataset("coco", SAMPLE)
    assert (len(data.samples), data.problems) == (148, [])
    annotations = json.loads((SAMPLE / "instances.json").read_text())["annotations"]
    area = {}
    for a in annotations:
        area[a["image_id"], a["category_id"]] = area.get((a["image_id"], a["category_id"]), 0) + a["area"]
    shares = [s.load().masks.sum() for s in data.samples]
    assert sum(shares) == pytest.approx(sum(area.values()), rel=0.05)
