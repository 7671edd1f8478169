"""Builds mmbckd; the metadata that tools read is here too.

Beyond the packages, a wheel of mmbckd holds two things:

* ``mmbckd_compat.pth`` in site-packages, which makes every start of that
  Python call ``mmbckd_compat.install()`` (see that module);
* ``mmbckd/.mim/``, where ``mim`` looks for configs, tools and the model index;
  the definitions of tables are beside them.
  In the source tree these are links, so that nothing is copied at build time.

A development install (``pip install -e .``) gets the same: setuptools would
leave both out of it, see :class:`EditableWheel`.
"""

import base64
import hashlib
import os
import shutil
import zipfile

from setuptools import find_packages, setup
from setuptools.command.build_py import build_py
from setuptools.command.editable_wheel import editable_wheel

ROOT = os.path.dirname(os.path.abspath(__file__))
PTH = 'mmbckd_compat.pth'


def read(*path: str) -> str:
    """A text file of the source tree."""
    with open(os.path.join(ROOT, *path), encoding='utf-8') as stream:
        return stream.read()


def about() -> dict:
    """``mmbckd/version.py``, without importing the package."""
    names: dict = {}
    exec(read('mmbckd', 'version.py'), names)
    return names


class BuildPy(build_py):
    """Puts the start-up hook beside the packages."""

    def run(self) -> None:
        """Build from scratch: files deleted since must not come back."""
        if not self.editable_mode:
            shutil.rmtree(self.build_lib, ignore_errors=True)
        super().run()
        if not self.editable_mode:
            self.copy_file(
                os.path.join(ROOT, PTH), os.path.join(self.build_lib, PTH)
            )

    def get_outputs(self, *args, **kwargs) -> list:
        """The hook belongs to the files to install, and to uninstall."""
        outputs = super().get_outputs(*args, **kwargs)
        if not self.editable_mode:
            outputs.append(os.path.join(self.build_lib, PTH))
        return outputs


class EditableWheel(editable_wheel):
    """Adds to setuptools' editable wheel what it has no way to declare.

    * The start-up hook.
    * Where the source tree is, for ``mim``. It joins the folder that the
      metadata is in (site-packages) with the first line of top_level.txt,
      which leads nowhere for an editable install; joined with an absolute
      path it leads there.
    """

    def run(self) -> None:
        """Build the wheel, then change it."""
        super().run()
        wheels = [
            name for name in os.listdir(self.dist_dir) if name.endswith('.whl')
        ]
        if len(wheels) != 1:
            raise RuntimeError(
                f'Expected one editable wheel in {self.dist_dir}, but found '
                f'{wheels}. Empty that folder and build again.'
            )
        wheel = os.path.join(self.dist_dir, wheels[0])
        with zipfile.ZipFile(wheel) as archive:
            files = {name: archive.read(name) for name in archive.namelist()}
        files[PTH] = read(PTH).encode()
        top = next(name for name in files if name.endswith('top_level.txt'))
        files[top] = os.path.join(ROOT, 'mmbckd').encode() + b'\n' + files[top]
        rewrite(wheel, files)


def rewrite(wheel: str, files: dict) -> None:
    """Write a wheel anew, with the RECORD that belongs to its files."""
    listing = next(name for name in files if name.endswith('RECORD'))
    files[listing] = (
        ''.join(
            record(name, data)
            for name, data in files.items()
            if name != listing
        ).encode()
        + f'{listing},,\n'.encode()
    )
    with zipfile.ZipFile(wheel, 'w', zipfile.ZIP_DEFLATED) as archive:
        for name, data in files.items():
            archive.writestr(name, data)


def record(name: str, data: bytes) -> str:
    """A line of RECORD."""
    digest = base64.urlsafe_b64encode(hashlib.sha256(data).digest())
    return f'{name},sha256={digest.decode().rstrip("=")},{len(data)}\n'


def requirements() -> list:
    """What is needed at run time, whichever the stack of OpenMMLab is."""
    names = about()
    return specified({**names['CORE'], **names['UNDECLARED']})


def specified(needed: dict) -> list:
    """Distributions with the supported versions of each."""
    return [name + versions for name, versions in needed.items()]


def required_by(extra: str) -> list:
    """What an extra adds."""
    return read('requirements', f'{extra}.txt').split()


setup(
    name='mmbckd',
    version=about()['__version__'],
    description='Boundary and context knowledge distillation on MMRazor',
    long_description=read('README.md')
    if os.path.exists(os.path.join(ROOT, 'README.md'))
    else '',
    long_description_content_type='text/markdown',
    author='mmbckd contributors',
    license='Apache-2.0',
    python_requires=about()['PYTHON'],
    install_requires=requirements(),
    extras_require={
        **{name: specified(all_) for name, all_ in about()['STACKS'].items()},
        'deploy': required_by('deploy'),
        'docs': required_by('docs'),
        'pretrained': required_by('pretrained'),
        'tests': [
            name
            for extra in ('tests', 'deploy', 'pretrained')
            for name in required_by(extra)
        ],
    },
    # The explicit '.' makes setuptools install a development copy by a path
    # instead of an import hook: `mim` and type checkers need real folders.
    package_dir={'': '.'},
    packages=find_packages(include=['mmbckd', 'mmbckd.*']),
    py_modules=['mmbckd_compat'],
    package_data={
        'mmbckd': [
            '.mim/model-index.yml',
            '.mim/**/*',
            'analysis/report/*.html',
            'datasets/*.yml',
        ]
    },
    # Checkpoints of benchmarks are for a clone. Here * stands for / too.
    exclude_package_data={'mmbckd': ['.mim/configs/mm*/*.pth']},
    include_package_data=False,
    zip_safe=False,
    cmdclass={'build_py': BuildPy, 'editable_wheel': EditableWheel},
    classifiers=[
        'Development Status :: 4 - Beta',
        'Intended Audience :: Science/Research',
        'License :: OSI Approved :: Apache Software License',
        'Operating System :: POSIX :: Linux',
        'Programming Language :: Python :: 3',
        'Programming Language :: Python :: 3.10',
        'Programming Language :: Python :: 3.11',
        'Programming Language :: Python :: 3.12',
        'Programming Language :: Python :: 3.13',
        'Topic :: Scientific/Engineering :: Image Recognition',
    ],
)
