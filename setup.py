"The package's facts stand in settings.ini, once; this file hands them to setuptools."
from configparser import ConfigParser
from setuptools import setup

cfg = ConfigParser(delimiters=["="], interpolation=None)
cfg.read("settings.ini", encoding="utf-8")
s = cfg["DEFAULT"]
split = lambda key: s.get(key, "").split()
extras = {k.removesuffix("_requirements"): split(k) for k in s if k.endswith("_requirements")}
# what the report `outside` compares with stands apart: lightfm is built from source
extras["all"] = sorted({r for name, extra in extras.items() if name != "outside" for r in extra})

setup(
    version=s["version"], description=s["description"], license="Apache-2.0", keywords=split("keywords"),
    author=s["author"], author_email=s["author_email"],
    long_description=open("README.md", encoding="utf-8").read(), long_description_content_type="text/markdown",
    install_requires=split("requirements"),
    extras_require=extras,
    entry_points={"console_scripts": split("console_scripts")},
)
