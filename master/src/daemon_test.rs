//! A whole master in this process: started on a folder, asked where it is, stopped.

use rfs_common::ids::Goal;

use super::*;
use crate::namespace::bootstrap::new_cluster;
use crate::store::StoreOptions;

fn made_folder() -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    let clock = SystemClock::shared();
    let data = folder.path().join("meta");
    Store::create(&data, [3; 16]).unwrap();
    let store = Store::open(&data, StoreOptions::default(), clock.clone()).unwrap();
    store.commit(&new_cluster(Goal::TWO, clock.now())).unwrap();
    store.close().unwrap();
    folder
}

fn config(folder: &Path) -> MasterConfig {
    let mut config = MasterConfig { data: folder.join("meta"), ..MasterConfig::default() };
    let free = Endpoint::new("127.0.0.1", 0);
    for endpoint in
        [&mut config.listen.clients, &mut config.listen.cluster, &mut config.listen.web, &mut config.listen.metrics]
    {
        endpoint.clone_from(&free);
    }
    config
}

#[test]
fn serves_says_where_and_ends_cleanly() {
    let folder = made_folder();
    let config = config(folder.path());
    let (shutdown, clock) = (Shutdown::new(), SystemClock::shared());
    let serving = {
        let (config, clock, shutdown) = (config.clone(), clock.clone(), shutdown.clone());
        std::thread::spawn(move || serve(&config, &clock, &shutdown))
    };
    let file = config.data.join(ADDRESSES_FILE);
    for _ in 0..500 {
        if file.exists() {
            break;
        }
        clock.sleep(Duration::from_millis(10));
    }
    let addresses: serde_json::Value = serde_json::from_slice(&std::fs::read(&file).unwrap()).unwrap();
    let clients = addresses["clients"].as_str().unwrap();
    assert!(std::net::TcpStream::connect(clients).is_ok());
    let second = serve(&config, &clock, &shutdown).unwrap_err();
    assert!(format!("{second:#}").contains("meta"), "{second:#}");
    shutdown.request();
    serving.join().unwrap().unwrap();
    assert!(std::net::TcpStream::connect(clients).is_err());
}

#[test]
fn a_folder_without_metadata_is_refused_with_the_command_that_makes_it() {
    let folder = tempfile::tempdir().unwrap();
    let error = serve(&config(folder.path()), &SystemClock::shared(), &Shutdown::new()).unwrap_err();
    assert!(error.to_string().contains("mfs-master init"), "{error}");
}
