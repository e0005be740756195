output "bucket" {
  description = "For --root and --videos."
  value       = "s3://${aws_s3_bucket.data.id}"
}

output "instance_profiles" {
  description = "For ray_cluster.yaml."
  value       = { head = aws_iam_instance_profile.head.name, worker = aws_iam_instance_profile.worker.name }
}

output "workload_role" {
  description = "For the annotations in kubernetes/base/accounts.yaml."
  value       = one(aws_iam_role.jobs[*].arn)
}
