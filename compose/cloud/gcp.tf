# ffpool workers on spot machines of Google Cloud: a managed group over the zones of a region. docs/cloud.md tells how to use it.

terraform {
  required_version = ">= 1.5"
  required_providers {
    google = {
      source  = "hashicorp/google"
      version = ">= 5.0"
    }
  }
}

variable "project" { type = string }
variable "region" { type = string }
variable "subnetwork" {
  type        = string
  description = "With a way out, such as Cloud NAT: the machines have no address of their own."
}
variable "package" {
  type        = string
  description = "The worker's Debian package as BUCKET/KEY, such as packages/ffpool-worker_0.1.0-1_amd64.deb"
}
variable "settings_secret" {
  type        = string
  description = "Secret of the Secret Manager whose text is /etc/ffpool/worker.env, with FFPOOL_AMQP_URL, FFPOOL_NATS_URL and FFPOOL_MEDIA_ROOTS=/srv/media."
}
variable "media_bucket" {
  type        = string
  description = "Bucket of inputs and outputs, as gs://BUCKET/..."
}
variable "machine_type" {
  type    = string
  default = "c3d-standard-8"
}
variable "scratch_gb" {
  type    = number
  default = 100
}
variable "size" {
  type        = number
  default     = 0
  description = "How many machines; an autoscaler of yours may change it afterwards."
}

locals {
  package_bucket = split("/", var.package)[0]
  # Of the 30 s of a preemption a third would be kept for tools that do not stop; they get 3 s.
  cloud_config = <<-CONFIG
    #cloud-config
    package_update: true
    write_files:
      - path: /etc/systemd/system/ffpool-worker.service.d/cloud.conf
        content: |
          [Unit]
          # A worker that has drained, before an eviction or because it was asked to, takes the machine with it; the group makes a new one.
          SuccessAction=poweroff
          [Service]
          Environment=FFPOOL_EVICTION=gcp FFPOOL_MACHINE_STORES=gs FFPOOL_STOP_GRACE_SECS=3
    runcmd:
      - set -eu
      - mkdir -p /srv/media
      - gcloud storage cp gs://${var.package} /var/tmp/ffpool-worker.deb
      - DEBIAN_FRONTEND=noninteractive apt-get install --yes /var/tmp/ffpool-worker.deb
      - gcloud secrets versions access latest --project=${var.project} --secret=${var.settings_secret} > /etc/ffpool/worker.env
      - systemctl enable --now --no-block ffpool-worker
  CONFIG
}

resource "google_service_account" "worker" {
  project      = var.project
  account_id   = "ffpool-worker"
  display_name = "ffpool workers: their settings, their package, the media"
}

resource "google_secret_manager_secret_iam_member" "settings" {
  project   = var.project
  secret_id = var.settings_secret
  role      = "roles/secretmanager.secretAccessor"
  member    = google_service_account.worker.member
}

resource "google_storage_bucket_iam_member" "package" {
  bucket = local.package_bucket
  role   = "roles/storage.objectViewer"
  member = google_service_account.worker.member
}

resource "google_storage_bucket_iam_member" "media" {
  bucket = var.media_bucket
  role   = "roles/storage.objectUser"
  member = google_service_account.worker.member
}

resource "google_compute_instance_template" "worker" {
  project      = var.project
  name_prefix  = "ffpool-worker-"
  machine_type = var.machine_type
  tags         = ["ffpool-worker"]

  scheduling {
    provisioning_model          = "SPOT"
    preemptible                 = true
    automatic_restart           = false
    instance_termination_action = "STOP"
  }

  disk {
    # Ubuntu, because Google's Debian has no cloud-init.
    source_image = "projects/ubuntu-os-cloud/global/images/family/ubuntu-2404-lts-amd64"
    boot         = true
    auto_delete  = true
    disk_size_gb = var.scratch_gb
    disk_type    = "pd-balanced"
  }

  # No address that others could reach.
  network_interface {
    subnetwork = var.subnetwork
  }

  service_account {
    email  = google_service_account.worker.email
    scopes = ["cloud-platform"]
  }

  shielded_instance_config {
    enable_secure_boot          = true
    enable_vtpm                 = true
    enable_integrity_monitoring = true
  }

  metadata = {
    user-data              = local.cloud_config
    enable-oslogin         = "TRUE"
    block-project-ssh-keys = "TRUE"
  }

  lifecycle {
    create_before_destroy = true
  }
}

resource "google_compute_region_instance_group_manager" "workers" {
  project            = var.project
  name               = "ffpool-workers"
  region             = var.region
  base_instance_name = "ffpool-worker"
  target_size        = var.size

  version {
    instance_template = google_compute_instance_template.worker.self_link
  }

  # New machines take the new template; those that run go on until they have drained.
  update_policy {
    type           = "OPPORTUNISTIC"
    minimal_action = "REPLACE"
  }

  lifecycle {
    ignore_changes = [target_size]
  }
}
