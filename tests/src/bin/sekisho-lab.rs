//! `sekisho-lab`: the laboratory from a terminal.
use sekisho_tests::lab::plan::{Family, Place};
use sekisho_tests::strongswan::*;
use sekisho_tests::traffic::*;
fn main() -> anyhow::Result<()> {
    let lab = sekisho_tests::lab::Lab::up("try")?;
    let a = Charon::start(&lab, Place::Clinic)?;
    let b = Charon::start(&lab, Place::Centre)?;
    for family in Family::BOTH {
    let ca = Connection { local: Place::Clinic.address(family), remote: Place::Centre.address(family), local_id: "clinic.example".into(), remote_id: "centre.example".into(),
        proof: Proof::Psk("a key that is long enough 123".into()), ike: "aes128gcm16-prfsha256-x25519".into(), esp: "aes128gcm16-x25519".into(),
        local_ts: vec!["192.168.1.0/24".into(), "fd00:1::/64".into()], remote_ts: vec!["10.2.0.0/24".into(), "fd10:2::/64".into()] };
    let cb = Connection { local: ca.remote, remote: ca.local, local_id: ca.remote_id.clone(), remote_id: ca.local_id.clone(), local_ts: ca.remote_ts.clone(), remote_ts: ca.local_ts.clone(), ..ca.clone() };
    a.load(&ca)?; b.load(&cb)?;
    let tap = tap::Tap::start(&lab.at(Place::Internet), "clinic", "CANARY")?;
    if let Err(e) = a.initiate() { println!("{e:#}\n{}", a.log()); }
    println!("{}", a.sas()?);
    for f in Family::BOTH { println!("{}", ping::ping(&lab.at(Place::Lan1), Place::Server.address(f), 10, std::time::Duration::from_millis(20))?); }
    a.rekey_child()?; b.rekey_ike()?; std::thread::sleep(std::time::Duration::from_millis(500));
    println!("{} {:?}", a.sas()?, a.ike_spis()?);
    println!("{}", tap.stop()?.summary());
    a.terminate()?;
    }
    lab.save_logs()?;
    Ok(())
}
