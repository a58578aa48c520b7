"""The public files that sknuc can fetch: where they are and how they are recognised."""

from typing import NamedTuple

__all__ = ["AME", "LEGEND", "MAJORANA", "SUPERCDMS", "WS4", "RemoteFile"]


class RemoteFile(NamedTuple):
    """A public file.

    Attributes
    ----------
    name : str
        Its name in the data home.
    url : str
        Where it is fetched from.
    checksum : str
        ``"sha256:..."`` or ``"md5:..."``.
    n_bytes : int
        Its size.
    """

    name: str
    url: str
    checksum: str
    n_bytes: int


_LEGEND_TESTDATA = (
    "https://raw.githubusercontent.com/legend-exp/legend-testdata/"
    "68d8b49211ed9562547f2444bef8512ab716c323/data/"
)
_ZENODO = "https://zenodo.org/records/8257027/files/"


def _tier(tier, run, time, sha256, n_bytes):
    name = f"l200-p03-{run}-cal-{time}-tier_{tier}.lh5"
    path = f"lh5/prod-ref-l200/generated/tier/{tier}/cal/p03/{run}/{name}"
    return RemoteFile(name, _LEGEND_TESTDATA + path, f"sha256:{sha256}", n_bytes)


LEGEND = {
    "th228": _tier(
        "dsp",
        "r000",
        "20230311T235840Z",
        "4e8424c86f0d742749e6f938692fc180e1d30a7e1de1d707c0390a73decf166e",
        2_582_399,
    ),
    "raw": _tier(
        "raw",
        "r001",
        "20230318T012144Z",
        "bb41a5e716a7746e7c6ebcabc2b01f65609735caf03d7fb99e57d78a21700071",
        874_456,
    ),
    "dsp": _tier(
        "dsp",
        "r001",
        "20230318T012144Z",
        "877dfbc2ef41c77ab70ba2dab9b040794fcee516eace798663eec39b5b1ced78",
        484_864,
    ),
    "hit": _tier(
        "hit",
        "r001",
        "20230318T012144Z",
        "ba8067ae4c4c3a1089ba0ea712245cdfb54cb027492cbd2faba5eb280e3328a3",
        224_776,
    ),
    "fcio": RemoteFile(
        "th228.fcio",
        _LEGEND_TESTDATA + "fcio/th228.fcio",
        "sha256:c29f8ed461dbee0b91ef48c6f27c31e0602101f948a47e309a5deb4349ba7ef9",
        3_832_152,
    ),
}

# MD5 is what Zenodo publishes: it finds broken transfers, not forgeries. The values are those of
# the record as quoted by its users; the sizes agree with the rows and columns of the files.
_MAJORANA_MD5 = {
    "MJD_Train_0": "3b6736c8916e3eb17bae1c3d7b33e2c6",
    "MJD_Train_1": "8a056b5ab88d06b0c8817a6f9e76c528",
    "MJD_Train_2": "1cebd6393563cd3668f8fe00c74100a8",
    "MJD_Train_3": "82006bff38484ac3c1e4763d05c83e26",
    "MJD_Train_4": "75dc221addfef13192c1dbb8e4e05101",
    "MJD_Train_5": "ea012019ddae84a1d9de8468d9e71d8f",
    "MJD_Train_6": "23c4310bb46bf6c64753bdfaacfff7d4",
    "MJD_Train_7": "3095e06d1856c58f244f19908bcdb16e",
    "MJD_Train_8": "74e0343fcd28ce3ae36a7e8f66959cd8",
    "MJD_Train_9": "a53af83298d5630185e60fea9a4966a4",
    "MJD_Train_10": "8188d76ae2465aaaa5804ba2a884d4b5",
    "MJD_Train_11": "46161a4babf8ec59690c6f5eb664e610",
    "MJD_Train_12": "9a1e0ea01931586687489245136cabb4",
    "MJD_Train_13": "cf2e486193b0944b030758c165b980d6",
    "MJD_Train_14": "73744513424b7d675206824dee40a611",
    "MJD_Train_15": "4e3b5d05d7f65cb71900a75135281e97",
    "MJD_Test_0": "6edfccabd99bd01ef3d203a53825264c",
    "MJD_Test_1": "bf95b9ee0a651f2d9f725b5c66adbc75",
    "MJD_Test_2": "00263e6037cd38aaae07e338b9bbbdb5",
    "MJD_Test_3": "187e87b6f4e4a6b7b0a3c4efc95b88a7",
    "MJD_Test_4": "e52aceaf4c73868572b460cc5a917d1a",
    "MJD_Test_5": "44de297b59632b40a8071ffcfbbc7eea",
    "MJD_NPML_0": "a541c51dd15410e4ff6ef9fadee7954e",
    "MJD_NPML_1": "75e63c47b91fb001156e66d9db8faaba",
    "MJD_NPML_2": "1eb6763a64aaa5ccbe471803e143daa7",
}
_LABELLED_BYTES = 1_978_866_144
_NPML_BYTES = {
    "MJD_NPML_0": 1_978_084_096,
    "MJD_NPML_1": 1_978_084_096,
    "MJD_NPML_2": 903_743_200,
}

MAJORANA = {
    name: RemoteFile(
        f"{name}.hdf5",
        f"{_ZENODO}{name}.hdf5",
        f"md5:{md5}",
        _NPML_BYTES.get(name, _LABELLED_BYTES),
    )
    for name, md5 in _MAJORANA_MD5.items()
}

_SUPERCDMS_DATA = (
    "https://raw.githubusercontent.com/FAIR-UMN/FAIR-UMN-CDMS/"
    "3502132236e70d2e73be17f6029e6645ef1793a1/data/dnn_dataset/"
)

SUPERCDMS = {
    "training": RemoteFile(
        "supercdms_training.csv",
        _SUPERCDMS_DATA + "training.csv",
        "sha256:d98b7a2abf664997152a43b278a9429d31af1ad88a98741983928151a6f3bdd0",
        1_174_430,
    ),
    "validation": RemoteFile(
        "supercdms_validation.csv",
        _SUPERCDMS_DATA + "validation.csv",
        "sha256:9e87427b41c0560c9c074ccc0dcc578242b90210f918be90856beba77bd30a3c",
        293_554,
    ),
    "unseen": RemoteFile(
        "supercdms_hos.csv",
        _SUPERCDMS_DATA + "hos.csv",
        "sha256:bb68e8ce778de6c3cb9c5b63c21d2abceb76644483ba8c6ab9323e2e2743a43a",
        389_652,
    ),
}

_MASS_TABLES = (
    "https://raw.githubusercontent.com/davidmoraleees/Nuclear-mass-predictions-based-on-CNN/"
    "913c683704129a2a5b7a76850e9deae738c3187f/data/raw/"
)

AME = {
    2016: RemoteFile(
        "mass2016.txt",
        _MASS_TABLES + "mass2016.txt",
        "sha256:2167f57a2a98331e4649b2dd2b658a9006ed4fba1975729ebfe52a42b4b9218a",
        418_937,
    ),
    2020: RemoteFile(
        "mass2020.txt",
        _MASS_TABLES + "mass2020.txt",
        "sha256:e8599c6d7f724fac91934e59f1b9de8fb8f63e820f4b39456b790665ed2a3307",
        472_648,
    ),
}

WS4 = RemoteFile(
    "WS4.txt",
    _MASS_TABLES + "WS4.txt",
    "sha256:29a1ac9af34d938a5aa924a3958874a19c20136be95ddf096d3a6c528a4d57d9",
    1_250_365,
)
