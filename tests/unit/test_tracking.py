"""Tracking files: read exactly, and nothing in a hostile one is executed or crashes the reader."""

from __future__ import annotations

import io
import json
import os
import pickle
import pickletools
import struct
import zipfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from gt_infer.errors import GtError, InputError
from gt_infer.pose import Pose
from gt_infer.tracking import read_blink, read_poses

# --- a writer of torch.save's bytes -------------------------------------------------------------


def text(value: str) -> bytes:
    encoded = value.encode()
    return b"X" + struct.pack("<I", len(encoded)) + encoded


def integer(value: int) -> bytes:
    return b"J" + struct.pack("<i", value)


def numbers(*values: int) -> bytes:
    return b"(" + b"".join(map(integer, values)) + b"t"


def tensor(
    key: str, shape, *, numel=None, stride=None, offset=0, storage="FloatStorage", load=b"Q"
) -> bytes:
    """The opcodes of one tensor, as torch.save writes them but for the memo."""
    stride = stride or [int(np.prod(shape[i + 1 :])) for i in range(len(shape))]
    numel = int(np.prod(shape)) if numel is None else numel
    location = b"(" + text("storage") + f"ctorch\n{storage}\n".encode() + text(key) + text("cpu")
    return (
        b"ctorch._utils\n_rebuild_tensor_v2\n("
        + (location + integer(numel) + b"t" + load)
        + integer(offset)
        + numbers(*shape)
        + numbers(*stride)
        + b"\x89ccollections\nOrderedDict\n)RtR"
    )


def dictionary(**items: bytes) -> bytes:
    body = b"".join(text(key) + value for key, value in items.items())
    return b"\x80\x02}(" + body + b"u."


def archive(pickled: bytes, compression=zipfile.ZIP_STORED, byteorder=b"little", **data) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", compression) as z:
        z.writestr("track/data.pkl", pickled)
        z.writestr("track/byteorder", byteorder)
        for key, array in data.items():
            z.writestr(f"track/data/{key[1:]}", np.asarray(array).tobytes())
    return buffer.getvalue()


RNG = np.random.default_rng(3)
EULER = RNG.normal(0, 0.1, (5, 3)).astype("<f4")
TRANS = (RNG.normal(0, 0.1, (5, 3)) - [0, 0, 10]).astype("<f4")
PICKLED = dictionary(euler=tensor("0", (5, 3)), trans=tensor("1", (5, 3)))
GOOD = archive(PICKLED, _0=EULER, _1=TRANS)
GOOD_JSON = json.dumps(
    {"focal_len": 1200.0, "frames": [{"img_id": 0, "transform_matrix": np.eye(4).tolist()}] * 2}
).encode()
GOOD_CSV = b"frame, AU45_r, x\n1, 0.0, 1\n2, 0.5, 1\n3, 3.0, 1\n4, -1, 1\n"


@pytest.fixture
def read(tmp_path: Path):
    def read(content: bytes, reader=read_poses):
        path = tmp_path / "tracked"
        path.write_bytes(content)
        return reader(path)

    return read


def euler_of(poses: list[Pose]) -> np.ndarray:
    return np.array([pose.euler for pose in poses])


def trans_of(poses: list[Pose]) -> np.ndarray:
    return np.array([pose.trans for pose in poses])


# --- track_params.pt ----------------------------------------------------------------------------


def test_reads_what_the_writer_wrote(read):
    poses = read(GOOD)
    np.testing.assert_array_equal(euler_of(poses), EULER)
    np.testing.assert_array_equal(trans_of(poses), TRANS)
    assert not poses[0].relative


def test_reads_the_dataset(shared: Path):
    golden = np.load(shared / "checkpoints/A/golden_deform.npz")
    tracked = read_poses(shared / "dataset/anna/track_params.pt")
    assert len(tracked) == 1700
    np.testing.assert_array_equal(euler_of(tracked)[golden["frames"]], golden["euler"])
    np.testing.assert_array_equal(trans_of(tracked)[golden["frames"]], golden["trans"])
    train = read_poses(shared / "dataset/anna/transforms_train.json")
    val = read_poses(os.fspath(shared / "dataset/anna/transforms_val.json"))
    assert (len(train), len(val)) == (1545, 155)
    np.testing.assert_allclose(euler_of(train + val), euler_of(tracked), rtol=0, atol=1e-12)
    np.testing.assert_allclose(trans_of(train + val), trans_of(tracked), rtol=0, atol=1e-12)


def test_reads_every_layout_that_torch_saves(tmp_path: Path):
    torch = pytest.importorskip("torch")
    wide = torch.randn(40, 9, dtype=torch.float64)
    layouts = {
        "plain": {"euler": wide[:, :3].clone().float(), "trans": wide[:, 3:6].clone()},
        "two views of one storage": {"euler": wide[4:9, :3], "trans": wide[::8, 5:8]},
        "transposed": {"euler": wide[:3].T, "trans": wide.T[:, 6:9]},
        "broadcast": {"euler": wide[0, :3].expand(7, 3), "trans": wide[1:8, :1].expand(7, 3)},
        "one frame": {"euler": wide[:1, :3], "trans": wide[:1, 3:6]},
        "among other things": {
            "id": torch.nn.Parameter(wide[0]).detach(),
            "name": "anna",
            "focal": torch.tensor(1200.0),
            "size": (512, 512),
            "notes": ["a", 1, 2.5, None, True, {"deep": torch.arange(4)}],
            "euler": wide[:2, :3],
            "trans": wide[:2, 3:6],
            "big": 2**40,
        },
    }
    for name, content in layouts.items():
        path = tmp_path / f"{name}.pt"
        torch.save(content, path)
        poses = read_poses(path)
        np.testing.assert_array_equal(euler_of(poses), content["euler"].numpy(), err_msg=name)
        np.testing.assert_array_equal(trans_of(poses), content["trans"].numpy(), err_msg=name)


class Malicious:
    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self):
        return os.mkdir, (str(self.marker),)


@pytest.mark.parametrize("protocol", [0, 1, 2, 3, 4, 5])
def test_code_in_a_pickle_is_not_run(read, tmp_path: Path, protocol: int):
    marker = tmp_path / "executed"
    evil = pickle.dumps({"euler": Malicious(marker), "trans": 0}, protocol=protocol)
    with pytest.raises(InputError, match=r"posix\.mkdir|opcode") as refusal:
        read(archive(evil))
    with pytest.raises(InputError, match=r"bare pickle|neither"):
        read(evil)
    assert not marker.exists()
    if protocol == 2:
        assert "only tensors are read" in str(refusal.value)
    pickle.loads(evil)  # the file does what the test says
    assert marker.exists()


@pytest.mark.parametrize(
    "evil",
    [
        b"\x80\x02cos\nsystem\n(" + text("true") + b"tR.",
        b"\x80\x02ctorch._utils\n_rebuild_tensor_v2\n)R.",
        b"\x80\x02c__builtin__\neval\n(" + text("1") + b"tR.",
        b"(S'true'\nios\nsystem\n.",  # INST
        b"\x80\x02(cos\nsystem\n" + text("true") + b"o.",  # OBJ
        b"\x80\x02cos\nsystem\n)\x81.",  # NEWOBJ
        b"\x80\x02}}b.",  # BUILD
        b"\x80\x02\x82\x01.",  # EXT1
        b"\x80\x04" + text("os") + text("system") + b"\x93.",  # STACK_GLOBAL
        dictionary(euler=tensor("0", (5, 3), load=b"")),  # a storage that is a plain tuple
        dictionary(euler=text("storage") + b"Q"),
    ],
)
def test_opcodes_that_tensors_do_not_need_are_refused(read, evil: bytes):
    with pytest.raises(InputError, match=r"tracked: .*(opcode|asks to call|unknown|outside it)"):
        read(archive(evil, _0=EULER, _1=TRANS))


@pytest.mark.parametrize(
    ("pickled", "message"),
    [
        (dictionary(euler=tensor("0", (5, 3))), 'no tensor "trans"'),
        (dictionary(euler=integer(1), trans=tensor("1", (5, 3))), 'no tensor "euler"'),
        (b"\x80\x02" + numbers(1, 2) + b".", "holds a tuple"),
        (b"\x80\x02}.", 'no tensor "euler"'),
        (b"\x80\x02}", "damaged|no end"),
        (b"", "damaged"),
        (b"\x80\x02}(" + text("a") + b"u.", "not a dictionary"),
        (b"\x80\x02}}" + text("a") + b"s.", "dictionary key"),
        (b"\x80\x02h\x07.", "damaged"),
        (b"\x80\x02tttt.", "damaged"),
        (b"\x80\x02X\xff\xff\xff\xff.", "damaged"),
        (b"\x80\x02" + b"(" * 50_000 + b"t" * 50_000 + b".", "holds a tuple"),
        (b"\x80\x02)q\x00" + b"h\x00h\x00\x86q\x00" * 10_000 + b".", "holds a tuple"),
    ],
)
def test_damaged_pickles_are_refused(read, pickled: bytes, message: str):
    with pytest.raises(InputError, match=message):
        read(archive(pickled, _0=EULER, _1=TRANS))


@pytest.mark.parametrize(
    ("euler", "message"),
    [
        (tensor("0", (5, 3), storage="LongStorage"), "torch.LongStorage, expected float32"),
        (tensor("0", (5, 3), storage="HalfStorage"), "expected float32 or float64"),
        (tensor("0", (5, 3), storage="DoubleStorage"), "60 bytes for 15 values"),
        (tensor("0", (3, 5)), "shape"),
        (tensor("0", (15,)), "shape"),
        (tensor("0", (5, 3, 1)), "shape"),
        (tensor("0", (0, 3), stride=[3, 1]), "0 frames"),
        (tensor("0", (2**30, 3), numel=2**30, stride=[0, 0]), "frames, expected 1 to"),
        (tensor("0", (4, 3)), "60 bytes for 12 values"),
        (tensor("0", (5, 3), numel=2**31 - 1), "60 bytes for 2147483647 values"),
        (tensor("0", (5, 3), numel=14), "outside"),
        (tensor("0", (5, 3), stride=[4, 1]), "outside"),
        (tensor("0", (5, 3), stride=[3, -1], offset=2), "outside"),
        (tensor("0", (5, 3), offset=1), "outside"),
        (tensor("0", (5, 3), offset=-1), "outside"),
        (tensor("7", (5, 3)), "no entry"),
        (tensor("../data.pkl", (5, 3)), "no entry"),
        (tensor("0", (4, 3), numel=15), "euler has 4 frames and trans 5"),
    ],
)
def test_tensors_that_do_not_fit_are_refused(read, euler: bytes, message: str):
    with pytest.raises(InputError, match=message):
        read(archive(dictionary(euler=euler, trans=tensor("1", (5, 3))), _0=EULER, _1=TRANS))


@pytest.mark.parametrize("bad", [np.nan, np.inf, 1e30])
def test_a_value_that_is_no_pose_names_its_frame(read, bad: float):
    trans = TRANS.copy()
    trans[3, 1] = bad
    with pytest.raises(InputError, match=r"tracked: frame 3: trans"):
        read(archive(PICKLED, _0=EULER, _1=trans))


def test_zips_that_torch_did_not_write_are_refused(read):
    bomb = archive(PICKLED, zipfile.ZIP_DEFLATED, _0=np.zeros(10**7, "u1"), _1=TRANS)
    with pytest.raises(InputError, match="compressed"):
        read(bomb)
    with pytest.raises(InputError, match="at most 262144 are read"):
        read(archive(b"\x80\x02" + b"N" * 300_000, _0=EULER, _1=TRANS))
    with pytest.raises(InputError, match="big-endian"):
        read(archive(PICKLED, byteorder=b"big", _0=EULER, _1=TRANS))
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as z:
        z.writestr("readme.txt", "hello")
    with pytest.raises(InputError, match=r"0 entries data\.pkl"):
        read(buffer.getvalue())


def test_missing_empty_and_cut_files_are_refused(read, tmp_path: Path):
    with pytest.raises(InputError, match=r"nowhere.*No such file"):
        read_poses(tmp_path / "nowhere.pt")
    with pytest.raises(InputError, match="directory"):
        read_poses(tmp_path)
    with pytest.raises(InputError, match="empty"):
        read(b"")
    for length in range(1, len(GOOD)):
        with pytest.raises(InputError, match="tracked"):
            read(GOOD[:length])


# --- transforms_*.json --------------------------------------------------------------------------


def test_pipes_are_refused_not_waited_for(tmp_path: Path):
    os.mkfifo(tmp_path / "pipe")
    for reader in (read_poses, read_blink):
        with pytest.raises(InputError, match="pipe: is a pipe"):
            reader(tmp_path / "pipe")


def test_reads_transforms(read):
    assert read(GOOD_JSON) == [Pose((0.0, 0.0, 0.0), (0.0, 0.0, 0.0))] * 2


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"hello", "neither"),
        (b"\xff\xfe{}", "neither"),
        (b"[" * 200_000, "neither"),
        (b"{", "neither"),
        (b"[]", '"frames"'),
        (b"{}", '"frames"'),
        (b'{"frames": {}}', '"frames"'),
        (b'{"frames": []}', '"frames"'),
        (b'{"frames": [1]}', "frame 0 has no"),
        (b'{"frames": [{"transform_matrix": [[1, 2], [3]]}]}', "frame 0: transform_matrix"),
        (b'{"frames": [{"transform_matrix": null}]}', "frame 0: transform_matrix"),
        (GOOD_JSON.replace(b"1.0", b"NaN"), "finite"),
        (GOOD_JSON.replace(b"1.0", b"1" * 400), "numbers|finite"),
    ],
)
def test_transforms_that_are_malformed_are_refused(read, content: bytes, message: str):
    with pytest.raises(InputError, match=message):
        read(content)


def test_transforms_of_absurd_size_are_not_parsed(tmp_path: Path):
    path = tmp_path / "transforms.json"
    with path.open("wb") as file:
        file.write(b"{")
        file.truncate(1 << 34)  # sparse
    with pytest.raises(InputError, match="at most"):
        read_poses(path)


# --- au.csv -------------------------------------------------------------------------------------


def test_reads_blinks(read):
    blink = read(GOOD_CSV, read_blink)
    assert blink.dtype == np.float32
    np.testing.assert_array_equal(blink, np.float32([0.0, 0.25, 1.0, 0.0]))
    np.testing.assert_array_equal(read(b"\xef\xbb\xbf" + GOOD_CSV, read_blink), blink)
    np.testing.assert_array_equal(read(GOOD_CSV.replace(b"\n", b"\r\n"), read_blink), blink)


def test_reads_the_datasets_blinks(shared: Path):
    blink = read_blink(shared / "dataset/anna/au.csv")
    assert blink.shape == (1700,)
    golden = np.load(shared / "checkpoints/A/golden_deform.npz")
    # The vectors were made before the csv was rounded to three decimals.
    np.testing.assert_allclose(blink[golden["frames"]], golden["eye"][:, 0], rtol=0, atol=2.6e-4)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "no column"),
        (b"a, b\n1, 2\n", "no column AU45_r"),
        (b"frame, AU45_r\n", "no rows"),
        (b"frame, AU45_r\n1, 0.5\n2\n", "line 3"),
        (b"frame, AU45_r\n1, x\n", "line 2"),
        (b"frame, AU45_r\n1, nan\n", "line 2"),
        (b"frame, AU45_r\n1, inf\n", "line 2"),
        (b"frame, AU45_r\n1, \xff\n", "not a csv"),
        (b'frame, AU45_r\n1, "' + b"9" * 200_000, "line|csv"),
        (b"x" * 1_000_000, "csv|no column"),
    ],
)
def test_csv_that_is_malformed_is_refused(read, content: bytes, message: str):
    with pytest.raises(InputError, match=message):
        read(content, read_blink)


# --- any bytes ----------------------------------------------------------------------------------

edits = st.lists(
    st.tuples(st.integers(0, 10_000), st.integers(0, 2), st.binary(min_size=1, max_size=4)),
    min_size=1,
    max_size=4,
)
anywhere = settings(
    max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


def edited(content: bytes, changes: list[tuple[int, int, bytes]]) -> bytes:
    """`content` with bytes overwritten (0), inserted (1) or removed (2)."""
    for at, how, what in changes:
        at %= len(content) + 1
        content = content[:at] + what * (how < 2) + content[at + len(what) * (how != 1) :]
    return content


def read_or_refuse(read, content: bytes, reader=read_poses) -> None:
    try:
        result = read(content, reader)
    except GtError as err:
        str(err).encode()  # can be printed
        return
    if reader is read_poses:
        assert np.isfinite(euler_of(result)).all()
        assert np.isfinite(trans_of(result)).all()
    else:
        assert ((result >= 0) & (result <= 1)).all()


@anywhere
@given(edits)
def test_any_zip_is_read_or_refused(read, changes):
    read_or_refuse(read, edited(GOOD, changes))


@anywhere
@given(edits)
def test_any_pickle_is_read_or_refused(read, changes):
    read_or_refuse(read, archive(edited(PICKLED, changes), _0=EULER, _1=TRANS))


@anywhere
@given(st.lists(st.sampled_from([o.code.encode("latin1") for o in pickletools.opcodes])))
def test_any_opcodes_are_read_or_refused(read, opcodes):
    read_or_refuse(read, archive(PICKLED[:-1] + b"".join(opcodes) + b".", _0=EULER, _1=TRANS))


@anywhere
@given(edits)
def test_any_json_is_read_or_refused(read, changes):
    read_or_refuse(read, edited(GOOD_JSON, changes))


@anywhere
@given(edits)
def test_any_csv_is_read_or_refused(read, changes):
    read_or_refuse(read, edited(GOOD_CSV, changes), read_blink)
