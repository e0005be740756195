variable "region" {
  description = "Where bucket and cluster are: traffic between regions is slow and billed."
  type        = string
  default     = "us-west-2"
}

variable "bucket" {
  description = "Name of the bucket, unique in the world."
  type        = string
}

variable "cluster_name" {
  description = "As in ray_cluster.yaml: the head may start and end instances of this name only."
  type        = string
  default     = "vqvdm"
}

variable "oidc_provider_arn" {
  description = "Of a Kubernetes cluster whose pods work on the bucket; empty without one."
  type        = string
  default     = ""
}

variable "namespace" {
  description = "Of these pods."
  type        = string
  default     = "default"
}

variable "noncurrent_days" {
  description = "Days that what was overwritten or deleted can be brought back."
  type        = number
  default     = 7
}
