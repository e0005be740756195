# Nodes of ray_cluster.yaml whose GPUs work on one training stand near each other.
resource "aws_placement_group" "gpu" {
  name     = "vqvdm-gpu-8"
  strategy = "cluster"
}
