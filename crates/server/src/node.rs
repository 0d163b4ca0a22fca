//! Stands in for the node until it lands.
use std::{path::PathBuf, sync::Arc};

use arc_swap::ArcSwapOption;
use consensus::{CheckpointPolicy, Group, env::Env};
use storage::disk::DiskEngine;
use tokio::runtime::Handle;

pub(crate) mod cache {
    pub(crate) struct Cache {
        pub(crate) generation: u64,
        pub(crate) group: consensus::Group<storage::memory::MemoryEngine>,
    }
}
pub(crate) mod data_dir {
    use std::path::Path;
    pub(crate) struct DataDir;
    impl DataDir {
        pub(crate) fn exists(_: &Path) -> bool {
            false
        }
        pub(crate) fn create(_: &Path, _: uuid::Uuid, _: state::ids::NodeId) -> anyhow::Result<()> {
            anyhow::bail!("the node has not landed")
        }
    }
    pub(crate) fn create_private_dir(_: &Path) -> anyhow::Result<()> {
        anyhow::bail!("the node has not landed")
    }
    pub(crate) fn write_durably(_: &Path, _: &str, _: &[u8]) -> anyhow::Result<()> {
        anyhow::bail!("the node has not landed")
    }
}
#[allow(dead_code)]
pub(crate) struct Options {
    pub(crate) data_dir: PathBuf,
    pub(crate) log_segment_bytes: u64,
    pub(crate) log_cache_bytes_max: usize,
    pub(crate) page_cache_bytes: usize,
    pub(crate) checkpoints: CheckpointPolicy,
    pub(crate) disk: Arc<dyn storage::fs::Disk>,
    pub(crate) env: Arc<dyn Env>,
    pub(crate) log_observer: Arc<dyn consensus::log::disk::Observer>,
    pub(crate) raft: Handle,
}
pub(crate) struct Node {
    values: Group<DiskEngine>,
    cache: Arc<ArcSwapOption<cache::Cache>>,
}
impl Node {
    pub(crate) async fn start(_: Options) -> anyhow::Result<Self> {
        anyhow::bail!("the node has not landed")
    }
    pub(crate) fn values(&self) -> &Group<DiskEngine> {
        &self.values
    }
    pub(crate) fn cache(&self) -> Arc<ArcSwapOption<cache::Cache>> {
        self.cache.clone()
    }
    pub(crate) async fn fault(&self) -> String {
        self.values.fault().await
    }
    pub(crate) async fn shutdown(self) -> anyhow::Result<()> {
        Ok(())
    }
}
