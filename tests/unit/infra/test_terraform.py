"""The Terraform files: what they promise of the bucket, and what the roles may do."""

import re
from pathlib import Path
from typing import Any

import hcl2

FOLDER = Path(__file__).parents[3] / "infra/terraform"


def plain(node: Any) -> Any:
    """What was parsed, without the quotes of literals and the parser's own entries."""
    if isinstance(node, dict):
        return {plain(k): plain(v) for k, v in node.items() if not str(k).startswith("__")}
    if isinstance(node, list):
        return [plain(item) for item in node]
    return node.strip('"') if isinstance(node, str) else node


def blocks(kind: str) -> dict[tuple[str, ...], dict[str, Any]]:
    """The blocks of a kind in all files, by their labels."""
    found: dict[tuple[str, ...], dict[str, Any]] = {}
    for path in sorted(FOLDER.glob("*.tf")):
        with path.open() as file:
            parsed = plain(hcl2.load(file))
        for block in parsed.get(kind, []):
            for first, body in block.items():
                if kind in ("resource", "data"):
                    found |= {(first, name): each for name, each in body.items()}
                else:
                    found[(first,)] = body
    return found


def statements(name: str) -> list[dict[str, Any]]:
    return blocks("data")["aws_iam_policy_document", name]["statement"]


def test_the_bucket_is_private_encrypted_and_kept_tidy() -> None:
    resources = blocks("resource")
    public = resources["aws_s3_bucket_public_access_block", "data"]
    assert sum(value is True for value in public.values()) == 4
    encryption = resources["aws_s3_bucket_server_side_encryption_configuration", "data"]
    (rule,) = encryption["rule"]
    assert rule["apply_server_side_encryption_by_default"] == [{"sse_algorithm": "AES256"}]
    rules = resources["aws_s3_bucket_lifecycle_configuration", "data"]["rule"]
    assert all(rule["status"] == "Enabled" for rule in rules)
    (aborted,) = [
        rule["abort_incomplete_multipart_upload"]
        for rule in rules
        if "abort_incomplete_multipart_upload" in rule
    ]
    assert aborted == [{"days_after_initiation": 1}]
    (plain_http,) = statements("encrypted_transport")
    assert plain_http["effect"] == "Deny"
    (condition,) = plain_http["condition"]
    assert (condition["variable"], condition["values"]) == ("aws:SecureTransport", ["false"])


def test_jobs_may_do_with_the_bucket_what_they_do_and_nothing_else() -> None:
    look, work = statements("bucket")
    assert look["resources"] == ["${aws_s3_bucket.data.arn}"]
    assert work["resources"] == ["${aws_s3_bucket.data.arn}/*"]
    assert set(look["actions"] + work["actions"]) == {
        "s3:ListBucket", "s3:GetBucketLocation", "s3:ListBucketMultipartUploads", "s3:GetObject",
        "s3:PutObject", "s3:DeleteObject", "s3:AbortMultipartUpload",
        "s3:ListMultipartUploadParts",
    }  # fmt: skip


def test_the_head_starts_ends_and_tags_its_own_nodes_only() -> None:
    for statement in statements("autoscaler"):
        actions = set(statement["actions"])
        assert not any("*" in action for action in actions), statement["sid"]
        if statement["resources"] == ["*"]:
            assert all(action.startswith("ec2:Describe") for action in actions)
        if actions & {"ec2:TerminateInstances", "ec2:CreateTags", "iam:PassRole"}:
            assert statement["condition"]
    (own,) = [s for s in statements("autoscaler") if s["sid"] == "StartNodesOfThisCluster"]
    (condition,) = own["condition"]
    assert condition["variable"] == "aws:RequestTag/ray-cluster-name"
    (role,) = [s for s in statements("autoscaler") if s["actions"] == ["iam:PassRole"]]
    assert role["resources"] == ["${aws_iam_role.worker.arn}"]


def test_every_name_that_is_used_is_declared() -> None:
    text = "".join(path.read_text() for path in sorted(FOLDER.glob("*.tf")))
    variables = {name for (name,) in blocks("variable")}
    assert set(re.findall(r"\bvar\.(\w+)", text)) == variables
    resources = set(blocks("resource"))
    for kind, name in re.findall(r"(?<!data\.)\b(aws_\w+)\.(\w+)[.\[]", text):
        assert (kind, name) in resources
    for description in (*blocks("variable").values(), *blocks("output").values()):
        assert description["description"]
