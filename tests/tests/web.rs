//! The web page in a real browser: what the cluster is like stands on it, also later, in the dark, and on a telephone.

use std::fs;

use rfs_tests::browser::{Browser, Page, Scheme};
use rfs_tests::cluster::{Cluster, SOON};
use rfs_tests::programs::run;
use serde_json::Value;

/// As narrow as telephones are.
const NARROW: u32 = 360;
const WIDE: u32 = 1280;

/// Waits until the page shows all of these texts.
fn wait_for_texts(cluster: &Cluster, browser: &mut Browser, page: &Page, texts: &[&str]) {
    let mut shown = String::new();
    let all_there = cluster.wait(SOON, || {
        let text = browser.evaluate(page, "document.body?.innerText ?? ''").expect("the page's text");
        text.as_str().unwrap_or_default().clone_into(&mut shown);
        texts.iter().all(|text| shown.contains(text))
    });
    assert!(all_there, "not all of {texts:?} are on the page:\n{shown}");
}

#[test]
fn an_open_page_follows_the_cluster_without_being_loaded_again() {
    let mut cluster = Cluster::start().expect("a cluster");
    let mount = cluster.mount().expect("a mount");
    fs::write(mount.path().join("file"), vec![1; 100_000]).expect("written");
    cluster.wait_until_fully_replicated().expect("two copies");
    let mut browser = Browser::start(cluster.folder(), cluster.guardian()).expect("chromium");
    let page = browser.open(&cluster.web_address(), WIDE, Scheme::Light).expect("the page");
    let first = mount.path().to_str().expect("a path");
    wait_for_texts(
        &cluster,
        &mut browser,
        &page,
        &["chunkserver1", "chunkserver2", "chunkserver3", "3 of 3", first, "up to date"],
    );
    browser.evaluate(&page, "window.loadedOnce = true").expect("noted");

    let other = cluster.mount().expect("another mount");
    wait_for_texts(&cluster, &mut browser, &page, &[first, other.path().to_str().expect("a path")]);
    cluster.kill_chunkserver(0);
    wait_for_texts(&cluster, &mut browser, &page, &["2 of 3", "away"]);
    cluster.start_chunkserver(0).expect("started");
    wait_for_texts(&cluster, &mut browser, &page, &["3 of 3"]);
    cluster.kill_master();
    wait_for_texts(&cluster, &mut browser, &page, &["the master does not answer since"]);
    cluster.start_master().expect("started");
    wait_for_texts(&cluster, &mut browser, &page, &["up to date", "3 of 3"]);
    assert_eq!(browser.evaluate(&page, "window.loadedOnce").expect("still there"), true, "it was loaded again");
}

/// Everything that is wider than the window, than the box it stands in, or reaches beyond either.
const TOO_WIDE: &str = r"
    [document.documentElement, ...document.querySelectorAll('body, body *')]
        .filter((element) => element.scrollWidth > WIDTH
            || element.getBoundingClientRect().right > WIDTH + 0.5
            || element.matches('.scroll, .list') && element.scrollWidth > element.clientWidth)
        .map((element) => `${element.tagName} ${element.id} ${element.className}: ${element.innerText.slice(0, 60)}`)";

/// Texts that differ too little from what is behind them (WCAG AA: 4.5), and how light the page is, from 0 to 1.
const COLOURS: &str = r"
    (() => {
        const canvas = document.createElement('canvas').getContext('2d', { willReadFrequently: true });
        const parts = (colour) => {
            canvas.clearRect(0, 0, 1, 1);
            canvas.fillStyle = colour;
            canvas.fillRect(0, 0, 1, 1);
            return [...canvas.getImageData(0, 0, 1, 1).data].map((part) => part / 255);
        };
        const lightness = ([red, green, blue]) => {
            const linear = (part) => part <= 0.03928 ? part / 12.92 : ((part + 0.055) / 1.055) ** 2.4;
            return 0.2126 * linear(red) + 0.7152 * linear(green) + 0.0722 * linear(blue);
        };
        const behind = (element) => {
            if (!element) return [1, 1, 1];
            const [red, green, blue, opacity] = parts(getComputedStyle(element).backgroundColor);
            if (opacity === 1) return [red, green, blue];
            const under = behind(element.parentElement);
            return [red, green, blue].map((part, index) => part * opacity + under[index] * (1 - opacity));
        };
        const faint = [...document.querySelectorAll('body *')]
            .filter((element) => [...element.childNodes].some((node) => node.nodeType === 3 && node.data.trim()))
            .filter((element) => element.getClientRects().length > 0)
            .map((element) => {
                const [text, back] = [parts(getComputedStyle(element).color), behind(element)].map(lightness);
                return [(Math.max(text, back) + 0.05) / (Math.min(text, back) + 0.05), element];
            })
            .filter(([contrast]) => contrast < 4.5)
            .map(([contrast, element]) => `${contrast.toFixed(1)}: ${element.tagName} ${element.innerText.slice(0, 60)}`);
        return { faint, paper: lightness(behind(document.body)) };
    })()";

#[test]
fn the_page_fits_a_telephone_and_is_dark_where_that_is_preferred() {
    let mut cluster = Cluster::start().expect("a cluster");
    let mount = cluster.mount().expect("a mount");
    // A file that lacks copies, a server that is away, events, a long name: something of everything.
    let name = "a-name-without-any-place-to-break-it-".repeat(4);
    fs::write(mount.path().join(&name), vec![1; 100_000]).expect("written");
    cluster.wait_until_fully_replicated().expect("two copies");
    let path = mount.path().join(&name);
    run(&mut cluster.rfs(&["setgoal", "5", path.to_str().expect("a path")])).expect("setgoal");
    cluster.kill_chunkserver(2);
    cluster.wait_for_status(SOON, "one away", |status| status["servers_up"] == 2).expect("noticed");
    let mut browser = Browser::start(cluster.folder(), cluster.guardian()).expect("chromium");
    for (width, scheme) in
        [(NARROW, Scheme::Light), (NARROW, Scheme::Dark), (WIDE, Scheme::Light), (WIDE, Scheme::Dark)]
    {
        let page = browser.open(&cluster.web_address(), width, scheme).expect("the page");
        wait_for_texts(&cluster, &mut browser, &page, &["chunkserver1", "2 of 3", "away", &name, "up to date"]);
        let too_wide = browser.evaluate(&page, &TOO_WIDE.replace("WIDTH", &width.to_string())).expect("measured");
        assert_eq!(too_wide, Value::Array(Vec::new()), "at {width} px");
        let colours = browser.evaluate(&page, COLOURS).expect("measured");
        assert_eq!(colours["faint"], Value::Array(Vec::new()), "at {width} px, {scheme:?}");
        let paper = colours["paper"].as_f64().expect("a number");
        assert!(if scheme == Scheme::Dark { paper < 0.05 } else { paper > 0.8 }, "{scheme:?}: {paper}");
    }
}
