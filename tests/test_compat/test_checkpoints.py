"""What the compat layer lets torch.load read, and what it must refuse."""

import os
import pickle
import re
import struct
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from mmengine.logging import HistoryBuffer
from mmengine.runner import load_checkpoint

import mmbckd  # noqa: F401  (installs the compat layer)


def save_pickle(path: Path, payload: bytes) -> str:
    """A checkpoint, in the format of torch.save, with this pickle in it."""
    torch.save({}, path)
    with zipfile.ZipFile(path) as archive:
        files = {name: archive.read(name) for name in archive.namelist()}
    with zipfile.ZipFile(path, 'w') as archive:
        for name, data in files.items():
            archive.writestr(
                name, payload if name.endswith('/data.pkl') else data
            )
    return str(path)


def text(string: str) -> bytes:
    """Opcode that pushes a string."""
    data = string.encode()
    return b'X' + struct.pack('<I', len(data)) + data


def glob(module: str, name: str) -> bytes:
    """Opcode that pushes a global."""
    return f'c{module}\n{name}\n'.encode()


def call(function: bytes, *args: bytes) -> bytes:
    """Opcodes that call a function."""
    return function + b'(' + b''.join(args) + b'tR'


def build(thing: bytes, *state: bytes) -> bytes:
    """Opcodes that set the state of an object."""
    return thing + b'(' + b''.join(state) + b'tb'


HISTORY = glob('mmengine.logging.history_buffer', 'HistoryBuffer')
GETATTR = glob('__builtin__', 'getattr')
DTYPE = glob('numpy', 'dtype')
NO, YES, NONE, ZERO, THREE = b'\x89', b'\x88', b'N', b'K\x00', b'K\x03'
EIGHT, MINUS = b'K\x08', b'J\xff\xff\xff\xff'
INIT = call(GETATTR, HISTORY, text('__init__'))
# A dtype that holds Python objects but says that it does not: numpy would
# take the bytes of an array of it for pointers.
FORGED_DTYPE = build(
    call(DTYPE, text('V8'), NO, YES),
    THREE,
    text('|'),
    NONE,
    b'(' + text('a') + b't',
    b'}' + text('a') + b'(' + call(DTYPE, text('O'), NO, YES) + ZERO + b'ts',
    EIGHT,
    b'K\x01',
    ZERO,
)
RECONSTRUCT = call(
    glob('numpy.core.multiarray', '_reconstruct'),
    glob('numpy', 'ndarray'),
    b'(' + ZERO + b't',
    text('b'),
)
FLAG = f'/tmp/mmbckd-test-checkpoint-ran-code-{os.getpid()}'

MALICIOUS = {
    'os.system': call(glob('os', 'system'), text(f'touch {FLAG}')),
    'posix.system': call(glob('posix', 'system'), text(f'touch {FLAG}')),
    'eval': call(glob('__builtin__', 'eval'), text(f'open("{FLAG}", "w")')),
    'exec': call(glob('builtins', 'exec'), text(f'open("{FLAG}", "w")')),
    'getattr of a global': call(GETATTR, glob('os', 'path'), text('os')),
    'getattr of an allowed type': INIT,
    'getattr chain to globals': call(GETATTR, INIT, text('__globals__')),
    'getattr of a statistic of a statistic': call(
        GETATTR, call(GETATTR, HISTORY, text('mean')), text('__globals__')
    ),
    'getattr with a default': call(
        GETATTR, HISTORY, text('mean'), text('mean')
    ),
    "the layer's own getattr": call(
        glob('mmbckd_compat', '_history_method'), HISTORY, text('mean')
    ),
    'importlib': call(glob('importlib', 'import_module'), text('os')),
    'mmengine': call(glob('mmengine.config', 'Config.fromfile'), text('x')),
    'numpy load': call(glob('numpy', 'load'), text('x.npy'), NONE, YES),
    'object dtype': call(DTYPE, text('O'), NO, YES),
    'forged dtype': FORGED_DTYPE,
    'forged array': build(
        RECONSTRUCT,
        b'K\x01',
        b'(' + b'K\x01' + b't',
        FORGED_DTYPE,
        NO,
        text('A' * 8),
    ),
    'array longer than its data': build(
        RECONSTRUCT,
        b'K\x01',
        b'(' + b'J\xff\xff\xff\x7f' + b't',
        call(DTYPE, text('f8'), NO, YES),
        NO,
        call(glob('_codecs', 'encode'), text('A' * 8), text('latin1')),
    ),
    'numpy.ndarray called': call(
        glob('numpy', 'ndarray'), b'(' + EIGHT + b't', text('O')
    ),
    'scalar of objects': call(
        glob('numpy.core.multiarray', 'scalar'),
        call(DTYPE, text('O'), NO, YES),
        text('A' * 8),
    ),
    'scalar longer than its data': call(
        glob('numpy.core.multiarray', 'scalar'),
        call(DTYPE, text('f8'), NO, YES),
        call(glob('_codecs', 'encode'), text('A'), text('latin1')),
    ),
}


@pytest.mark.parametrize('attack', MALICIOUS)
def test_malicious_checkpoint_is_refused(attack, tmp_path):
    payload = b'\x80\x02}' + text('state_dict') + MALICIOUS[attack] + b's.'
    file = save_pickle(tmp_path / 'evil.pth', payload)
    Path(FLAG).unlink(missing_ok=True)
    with pytest.raises(
        (pickle.UnpicklingError, ValueError, TypeError, RuntimeError)
    ):
        load_checkpoint(torch.nn.Linear(1, 1), file, map_location='cpu')
    assert not Path(FLAG).exists()


def test_payloads_are_real_attacks(tmp_path):
    """Else the test above would prove nothing: pickle itself obeys them."""
    payload = b'\x80\x02' + MALICIOUS['os.system'] + b'.'
    Path(FLAG).unlink(missing_ok=True)
    pickle.loads(payload)
    assert Path(FLAG).exists()
    Path(FLAG).unlink()
    forged = pickle.loads(b'\x80\x02' + FORGED_DTYPE + b'.')
    assert forged.fields['a'][0].kind == 'O' and not forged.hasobject
    chain = MALICIOUS['getattr chain to globals']
    assert 'np' in pickle.loads(b'\x80\x02' + chain + b'.')


def test_refused_getattr_says_why(tmp_path):
    file = save_pickle(tmp_path / 'evil.pth', b'\x80\x02' + INIT + b'.')
    with pytest.raises(pickle.UnpicklingError, match='HistoryBuffer only'):
        torch.load(file)


def checkpoint() -> dict:
    """Everything numeric that a message hub can hold."""
    buffer = HistoryBuffer()
    for i in range(3):
        buffer.update(0.5 + i, i + 1)
    return dict(
        buffer=buffer,
        arrays=[
            np.arange(6).reshape(2, 3).astype(kind)
            for kind in (
                bool,
                np.uint8,
                np.int64,
                np.float16,
                np.float32,
                np.float64,
                np.complex64,
            )
        ],
        fortran=np.asfortranarray(np.arange(6.0).reshape(2, 3)),
        scalars=[
            np.float32(1.5),
            np.float64(2.5),
            np.int64(-3),
            np.bool_(True),
            np.uint8(255),
        ],
    )


@pytest.mark.parametrize('core', ['numpy.core', 'numpy._core'])
def test_numpy_1_and_2_checkpoints_load(core, tmp_path):
    saved = checkpoint()
    torch.save(saved, tmp_path / 'a.pth')
    with zipfile.ZipFile(tmp_path / 'a.pth') as archive:
        name = next(n for n in archive.namelist() if n.endswith('data.pkl'))
        payload = archive.read(name)
    payload, count = re.subn(
        rb'cnumpy\._?core\.multiarray\n',
        f'c{core}.multiarray\n'.encode(),
        payload,
    )
    assert count
    loaded = torch.load(save_pickle(tmp_path / 'b.pth', payload))

    for old, new in zip(saved['buffer'].data, loaded['buffer'].data):
        np.testing.assert_array_equal(old, new)
    assert loaded['buffer'].statistics('mean') == pytest.approx(
        saved['buffer'].mean()
    )
    for old, new in zip(
        [*saved['arrays'], saved['fortran']],
        [*loaded['arrays'], loaded['fortran']],
    ):
        assert type(new) is np.ndarray and new.dtype == old.dtype
        np.testing.assert_array_equal(old, new)
        new[...] = 0  # an ordinary array, not a view of bytes
    for old, new in zip(saved['scalars'], loaded['scalars']):
        assert type(new) is type(old) and new == old
    loaded['buffer'].update(1.0)
