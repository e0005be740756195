# Roles: `jobs` works on the bucket and does nothing else; `head` also starts and ends the nodes of its own cluster.
data "aws_iam_policy_document" "bucket" {
  statement {
    sid       = "Look"
    actions   = ["s3:ListBucket", "s3:GetBucketLocation", "s3:ListBucketMultipartUploads"]
    resources = [aws_s3_bucket.data.arn]
  }

  # No s3:DeleteObjectVersion: what a job deletes or overwrites can be brought back for some days.
  statement {
    sid = "ReadAndWrite"
    actions = [
      "s3:GetObject",
      "s3:PutObject",
      "s3:DeleteObject",
      "s3:AbortMultipartUpload",
      "s3:ListMultipartUploadParts",
    ]
    resources = ["${aws_s3_bucket.data.arn}/*"]
  }
}

resource "aws_iam_policy" "bucket" {
  name   = "vqvdm-bucket"
  policy = data.aws_iam_policy_document.bucket.json
}

data "aws_iam_policy_document" "assume_from_ec2" {
  statement {
    actions = ["sts:AssumeRole"]

    principals {
      type        = "Service"
      identifiers = ["ec2.amazonaws.com"]
    }
  }
}

# Workers of ray_cluster.yaml.
resource "aws_iam_role" "worker" {
  name               = "vqvdm-worker"
  assume_role_policy = data.aws_iam_policy_document.assume_from_ec2.json
}

resource "aws_iam_role_policy_attachment" "worker" {
  role       = aws_iam_role.worker.name
  policy_arn = aws_iam_policy.bucket.arn
}

resource "aws_iam_instance_profile" "worker" {
  name = "vqvdm-worker"
  role = aws_iam_role.worker.name
}

# The head of ray_cluster.yaml.
data "aws_iam_policy_document" "autoscaler" {
  # These name no instance, so they cannot be narrowed.
  statement {
    sid = "LookAround"
    actions = [
      "ec2:DescribeAvailabilityZones",
      "ec2:DescribeImages",
      "ec2:DescribeInstances",
      "ec2:DescribeInstanceTypes",
      "ec2:DescribeKeyPairs",
      "ec2:DescribeSecurityGroups",
      "ec2:DescribeSubnets",
      "ec2:DescribeVpcs",
    ]
    resources = ["*"]
  }

  statement {
    sid       = "StartNodesOfThisCluster"
    actions   = ["ec2:RunInstances"]
    resources = ["arn:aws:ec2:${var.region}:*:instance/*"]

    condition {
      test     = "StringEquals"
      variable = "aws:RequestTag/ray-cluster-name"
      values   = [var.cluster_name]
    }
  }

  statement {
    sid     = "WithWhatNodesAreMadeOf"
    actions = ["ec2:RunInstances"]
    resources = [
      "arn:aws:ec2:${var.region}::image/*",
      "arn:aws:ec2:${var.region}:*:key-pair/*",
      "arn:aws:ec2:${var.region}:*:network-interface/*",
      "arn:aws:ec2:${var.region}:*:placement-group/*",
      "arn:aws:ec2:${var.region}:*:security-group/*",
      "arn:aws:ec2:${var.region}:*:spot-instances-request/*",
      "arn:aws:ec2:${var.region}:*:subnet/*",
      "arn:aws:ec2:${var.region}:*:volume/*",
    ]
  }

  statement {
    sid       = "EndAndTagNodesOfThisCluster"
    actions   = ["ec2:TerminateInstances", "ec2:CreateTags"]
    resources = ["arn:aws:ec2:${var.region}:*:instance/*"]

    condition {
      test     = "StringEquals"
      variable = "aws:ResourceTag/ray-cluster-name"
      values   = [var.cluster_name]
    }
  }

  statement {
    sid       = "TagWhatIsBeingStarted"
    actions   = ["ec2:CreateTags"]
    resources = ["arn:aws:ec2:${var.region}:*:instance/*"]

    condition {
      test     = "StringEquals"
      variable = "ec2:CreateAction"
      values   = ["RunInstances"]
    }
  }

  statement {
    sid       = "GiveNodesTheirRole"
    actions   = ["iam:PassRole"]
    resources = [aws_iam_role.worker.arn]

    condition {
      test     = "StringEquals"
      variable = "iam:PassedToService"
      values   = ["ec2.amazonaws.com"]
    }
  }
}

resource "aws_iam_policy" "autoscaler" {
  name   = "vqvdm-autoscaler"
  policy = data.aws_iam_policy_document.autoscaler.json
}

resource "aws_iam_role" "head" {
  name               = "vqvdm-head"
  assume_role_policy = data.aws_iam_policy_document.assume_from_ec2.json
}

resource "aws_iam_role_policy_attachment" "head" {
  for_each   = { bucket = aws_iam_policy.bucket.arn, autoscaler = aws_iam_policy.autoscaler.arn }
  role       = aws_iam_role.head.name
  policy_arn = each.value
}

resource "aws_iam_instance_profile" "head" {
  name = "vqvdm-head"
  role = aws_iam_role.head.name
}

# Pods, by the identity of their service accounts.
locals {
  kubernetes = var.oidc_provider_arn == "" ? 0 : 1
  issuer     = try(split("oidc-provider/", var.oidc_provider_arn)[1], "")
}

data "aws_iam_policy_document" "assume_from_pods" {
  count = local.kubernetes

  statement {
    actions = ["sts:AssumeRoleWithWebIdentity"]

    principals {
      type        = "Federated"
      identifiers = [var.oidc_provider_arn]
    }

    condition {
      test     = "StringEquals"
      variable = "${local.issuer}:sub"
      values = [
        "system:serviceaccount:${var.namespace}:vqvdm-head",
        "system:serviceaccount:${var.namespace}:vqvdm-worker",
      ]
    }

    condition {
      test     = "StringEquals"
      variable = "${local.issuer}:aud"
      values   = ["sts.amazonaws.com"]
    }
  }
}

resource "aws_iam_role" "jobs" {
  count              = local.kubernetes
  name               = "vqvdm-jobs"
  assume_role_policy = data.aws_iam_policy_document.assume_from_pods[0].json
}

resource "aws_iam_role_policy_attachment" "jobs" {
  count      = local.kubernetes
  role       = aws_iam_role.jobs[0].name
  policy_arn = aws_iam_policy.bucket.arn
}
