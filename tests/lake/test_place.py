import pytest

from gyral import config as configs
from gyral.errors import UsageError
from gyral.lake.place import place_of
from gyral.lake.table import Lake
from gyral.run import Run, read_lineage
from gyral.show import show

SECRETS = {"lake_options": {"aws_secret_access_key": "s3cr3t"}, "kafka.options": {"sasl.password": "s3cr3t"}}


def log_of(root, into, **options):
    return place_of(root, into, options).log_folder


def test_a_lake_in_a_folder_keeps_its_log_beside_its_tables(tmp_path):
    assert Lake(tmp_path).log_folder == tmp_path / "lake" / "log"
    assert Lake(tmp_path, "other").log_folder == tmp_path / "other" / "log"
    assert Lake(tmp_path, str(tmp_path / "x")).place.table("events") == str(tmp_path / "x" / "events")


def test_no_two_lakes_of_an_object_store_share_a_log(tmp_path, monkeypatch):
    one = log_of(tmp_path, "s3://bucket/one")
    assert one == log_of(tmp_path, "s3://bucket/one/") and one.parent == tmp_path / "lake"
    others = {
        one,
        log_of(tmp_path, "s3://bucket/two"),
        log_of(tmp_path, "s3://bucket"),
        log_of(tmp_path, "gs://bucket/one"),
        log_of(tmp_path, "s3://bucket/one", aws_endpoint="http://127.0.0.1:1"),
        log_of(tmp_path, "s3://bucket/one", AWS_ENDPOINT_URL="http://127.0.0.1:2"),
        Lake(tmp_path).log_folder,
    }
    assert len(others) == 7
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:1/")
    assert log_of(tmp_path, "s3://bucket/one") == log_of(tmp_path, "s3://bucket/one", endpoint="http://127.0.0.1:1")


@pytest.mark.parametrize("uri", ["s3:/", "S3://bucket/x", "http://host/x", "s3://", "s3://b//x", "s3://b/../x", "s3://b/x?y"])
def test_what_is_no_address_is_refused_and_never_a_folder(tmp_path, uri):
    if "://" not in uri:
        assert place_of(tmp_path, uri, {}).folder == tmp_path / uri
        return
    with pytest.raises(UsageError, match="no address of a lake"):
        Lake(tmp_path, uri)


def test_options_become_texts_as_lance_wants_them(tmp_path):
    assert place_of(tmp_path, "s3://b", {"allow_http": True, "n": 3, "k": "V"}).options == {
        "allow_http": "true",
        "n": "3",
        "k": "V",
    }


def test_values_of_options_are_kept_in_no_record(tmp_path, monkeypatch):
    words = ["gyral", "ingest", "--set", "lake_options.aws_secret_access_key=s3cr3t", "--set=kafka.options={x='s3cr3t'}"]
    monkeypatch.setattr("sys.argv", [*words, "--set", "lake=s3://b", "--set", "kafka={options={a='s3cr3t\ns3cr3t'}}"])
    config = configs.load(tmp_path, flags=SECRETS)
    with Run.start(tmp_path, "ingest", config) as run:
        pass
    kept = {path: path.read_text() for path in run.folder.iterdir()}
    assert not [path for path, text in kept.items() if "s3cr3t" in text]
    assert 'aws_secret_access_key = "…"' in kept[run.folder / "config.toml"]
    assert "--set lake=s3://b" in read_lineage(tmp_path, 1).command
    data, text = show(tmp_path, "config", None, config)
    assert data["lake_options"] == {"aws_secret_access_key": "…"} and "s3cr3t" not in text
    assert configs.load(tmp_path, flags=SECRETS) == config and config.kafka.options == {"sasl.password": "s3cr3t"}
