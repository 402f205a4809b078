"""Installs the node. Its Python package is mile_edge_node, so that it never hides the library mile_edge."""

from pathlib import Path

from setuptools import setup

PACKAGE = "mile_edge"


def shared(folder, pattern):
    """Where the files of a folder go."""
    return f"share/{PACKAGE}/{folder}", [str(path) for path in sorted(Path(folder).glob(pattern))]


setup(
    # The library on PyPI is mile-edge: under that name pip would take this package for it.
    name="mile_edge_node",
    version="0.1.0",
    packages=["mile_edge_node"],
    data_files=[
        ("share/ament_index/resource_index/packages", [f"resource/{PACKAGE}"]),
        (f"share/{PACKAGE}", ["package.xml"]),
        shared("launch", "*.launch.py"),
        shared("config", "*.yaml"),
        shared("rviz", "*.rviz"),
    ],
    install_requires=["setuptools"],
    zip_safe=True,
    maintainer="mile_edge developers",
    maintainer_email="mile-edge@example.com",
    description="Segments every sensor of a robot with one frozen network and an expert per situation.",
    license="Apache-2.0",
    entry_points={
        "console_scripts": ["segmenter = mile_edge_node.main:main", "health = mile_edge_node.health:main"],
    },
)
