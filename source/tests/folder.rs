//! A folder as a source, through what a service sees of it: the stream and the list of problems. Tests
//! wait for the stream, never for time. Where nothing must come, a change that must come is waited for
//! behind it: one look at the folder sees both.

use std::{
    fs,
    os::unix::fs::symlink,
    path::{Path, PathBuf},
    sync::Arc,
};

use anyhow::{Context, Result, bail};
use futures::{StreamExt, stream::BoxStream};
use k8s_openapi::api::{
    core::v1::{Namespace, Pod, Service},
    discovery::v1::EndpointSlice,
};
use kube::ResourceExt;
use tempfile::TempDir;
use trellis_api::source::{Change, Source, Watched};
use trellis_source::{AnySource, OpenError, Place, Problem, Severity, SourceSpec};

#[tokio::test]
async fn the_stream_begins_with_everything_that_is_there() -> Result<()> {
    let folder = Folder::new()?;
    folder.write("services.yaml", &format!("{}---\n{}", service("web", 80), service("db", 5432)))?;
    folder.write("more.yml", &format!("%YAML 1.2\n---\n{}...\n", service("cache", 6379)))?;
    folder.write(
        "one.json",
        r#"{
	"apiVersion": "v1", "kind": "Service",
	"metadata": {"name": "json", "namespace": "other"}, "spec": {"ports": [{"port": 1}]}
}"#,
    )?;
    folder.write("notes.txt", "not a manifest: [")?;
    folder.write(".hidden.yaml", "not: [yaml")?;
    let source = folder.open().await?;
    let mut services = source.watch::<Service>();
    assert_eq!(reset(&mut services).await?, ["default/cache", "default/db", "default/web", "other/json"]);
    assert_eq!(source.problems(), []);
    // A kind that no file holds is known to be empty.
    assert_eq!(reset(&mut source.watch::<Pod>()).await?, [""; 0]);
    Ok(())
}

#[tokio::test]
async fn edits_renames_and_removals_arrive_as_changes() -> Result<()> {
    let folder = Folder::new()?;
    folder.write("web.yaml", &service("web", 80))?;
    let source = folder.open().await?;
    let mut services = source.watch::<Service>();
    assert_eq!(reset(&mut services).await?, ["default/web"]);

    folder.write("db.yaml", &service("db", 5432))?;
    assert_eq!(applied(&mut services).await?.name_any(), "db");
    // Written in place.
    folder.write("web.yaml", &service("web", 8080))?;
    assert_eq!(port(&applied(&mut services).await?), Some(8080));
    // Replaced, as careful editors do.
    folder.write("web.tmp", &service("web", 8081))?;
    fs::rename(folder.path("web.tmp"), folder.path("web.yaml"))?;
    assert_eq!(port(&applied(&mut services).await?), Some(8081));
    // Another file with the same object is no change of it; another object in it is.
    fs::rename(folder.path("web.yaml"), folder.path("renamed.yaml"))?;
    folder.write("last.yaml", &service("last", 1))?;
    assert_eq!(applied(&mut services).await?.name_any(), "last");
    fs::remove_file(folder.path("db.yaml"))?;
    assert_eq!(deleted(&mut services).await?.name_any(), "db");
    // Not a manifest any more.
    fs::rename(folder.path("renamed.yaml"), folder.path("renamed.off"))?;
    assert_eq!(deleted(&mut services).await?.name_any(), "web");
    Ok(())
}

#[tokio::test]
async fn a_file_with_an_error_keeps_all_its_last_good_objects() -> Result<()> {
    let folder = Folder::new()?;
    folder.write("two.yaml", &format!("{}---\n{}", service("web", 80), service("db", 5432)))?;
    let source = folder.open().await?;
    let mut services = source.watch::<Service>();
    reset(&mut services).await?;

    // The first document changed and is good; the second is not.
    let broken = service("db", 5432).replace("port: 5432", "port: many");
    folder.write("two.yaml", &format!("{}---\n{broken}", service("web", 8080)))?;
    folder.write("other.yaml", &service("other", 1))?;
    assert_eq!(applied(&mut services).await?.name_any(), "other");
    let problem = only(source.problems())?;
    assert_eq!(problem.place, folder.at("two.yaml", 18, 11));
    assert_eq!(problem.field.as_deref(), Some("spec.ports[0].port"));
    assert_eq!(problem.severity, Severity::Error);
    assert!(problem.message.contains("\"many\"") && problem.message.contains("repaired"), "{problem}");
    // Whoever comes now gets the last good state too.
    let mut late = source.watch::<Service>();
    let Some(Change::Reset(all)) = late.next().await else { bail!("no reset") };
    let ports: Vec<_> = all.iter().map(|service| (service.name_any(), port(service))).collect();
    assert!(ports.contains(&("web".to_owned(), Some(80))) && ports.contains(&("db".to_owned(), Some(5432))));

    folder.write("two.yaml", &format!("{}---\n{}", service("web", 8080), service("db", 5433)))?;
    let mut now =
        [applied(&mut services).await?, applied(&mut services).await?].map(|s| (s.name_any(), port(&s)));
    now.sort();
    assert_eq!(now, [("db".to_owned(), Some(5433)), ("web".to_owned(), Some(8080))]);
    assert_eq!(source.problems(), []);
    Ok(())
}

#[tokio::test]
async fn a_file_that_breaks_as_text_keeps_its_objects_until_it_is_repaired_or_removed() -> Result<()> {
    let folder = Folder::new()?;
    folder.write("web.yaml", &service("web", 80))?;
    let source = folder.open().await?;
    let mut services = source.watch::<Service>();
    reset(&mut services).await?;

    let breaks: [(&str, Option<u64>); 4] = [
        ("apiVersion: v1\nkind: Service\nmetadata: {name: web\nspec: x\n", Some(4)),
        ("apiVersion: v1\nkind: Service\nkind: Pod\n", Some(3)),
        ("# comment\n---\n- a list\n", Some(3)),
        ("apiVersion: v1\nmetadata: {name: web}\n", Some(1)),
    ];
    for (number, (text, line)) in breaks.into_iter().enumerate() {
        folder.write("web.yaml", text)?;
        folder.write("tick.yaml", &service("tick", 1000 + i32::try_from(number)?))?;
        assert_eq!(applied(&mut services).await?.name_any(), "tick", "after {text:?}");
        let problem = only(source.problems()).with_context(|| format!("after {text:?}"))?;
        let Place::File { path, position } = &problem.place else { bail!("{problem}") };
        assert_eq!(path, &folder.path("web.yaml"));
        assert_eq!(position.map(|(line, _)| line), line, "{problem}");
    }
    fs::write(folder.path("web.yaml"), b"\xff\xfe\x00")?;
    folder.write("tick.yaml", &service("tick", 2000))?;
    applied(&mut services).await?;
    assert!(only(source.problems())?.message.contains("UTF-8"));

    // As a file is while somebody redirects a slow command into it.
    folder.write("web.yaml", "")?;
    folder.write("tick.yaml", &service("tick", 2001))?;
    applied(&mut services).await?;
    assert!(only(source.problems())?.message.contains("empty"));

    fs::remove_file(folder.path("web.yaml"))?;
    assert_eq!(deleted(&mut services).await?.name_any(), "web");
    assert_eq!(source.problems(), []);
    // Nothing but comments is meant.
    folder.write("tick.yaml", "# nothing here any more\n---\n")?;
    assert_eq!(deleted(&mut services).await?.name_any(), "tick");
    Ok(())
}

#[tokio::test]
async fn problems_name_the_field_and_what_to_do() -> Result<()> {
    let cases = [
        ("apiVersion: v1\nkind: Service\nspec: {}\n", "metadata", "is missing"),
        ("apiVersion: v1\nkind: Service\nmetadata: {}\n", "metadata.name", "needs a name"),
        ("apiVersion: v1\nkind: Service\nmetadata: {name: 5}\n", "metadata.name", "quotes"),
        ("apiVersion: v1\nkind: Service\nmetadata: {name: ../web}\n", "metadata.name", "lower-case"),
        (
            "apiVersion: v1\nkind: Service\nmetadata: {name: web, namespace: A}\n",
            "metadata.namespace",
            "lower-case",
        ),
        ("apiVersion: v1\nkind: 7\n", "kind", "such as Service"),
        ("kind: Service\nmetadata: {name: web}\n", "apiVersion", "is missing"),
        ("apiVersion: v2\nkind: Namespace\nmetadata: {name: web}\n", "", ""),
        ("apiVersion: v1\nkind: List\nitems: 5\n", "items", "list of objects"),
        (
            "apiVersion: v1\nkind: List\nitems:\n- {apiVersion: v1, kind: Service, metadata: {name: a}}\n- {apiVersion: v1, kind: Service, metadata: {name: b}, spec: {type: 1}}\n",
            "items[1].spec.type",
            "string",
        ),
        (
            "apiVersion: discovery.k8s.io/v1beta1\nkind: EndpointSlice\nmetadata: {name: web}\n",
            "apiVersion",
            "use discovery.k8s.io/v1",
        ),
    ];
    for (text, field, remedy) in cases {
        let folder = Folder::new()?;
        folder.write("a.yaml", text)?;
        let source = folder.open().await?;
        reset(&mut source.watch::<EndpointSlice>()).await?;
        reset(&mut source.watch::<Service>()).await?;
        let problems = source.problems();
        if field.is_empty() {
            // Another API group's kind of the same name is no business of ours.
            assert_eq!(problems, []);
            continue;
        }
        let problem = only(problems).with_context(|| format!("of {text:?}"))?;
        assert_eq!(problem.field.as_deref(), Some(field), "{problem}");
        assert!(problem.message.contains(remedy), "{problem}");
        let Place::File { position: Some((line, column)), .. } = problem.place else { bail!("{problem}") };
        assert!(line > 0 && column > 0);
    }
    Ok(())
}

#[tokio::test]
async fn a_field_that_nobody_knows_is_a_warning_and_the_object_counts() -> Result<()> {
    let folder = Folder::new()?;
    folder.write("web.yaml", &service("web", 80).replace("  selector:", "  selectro:"))?;
    let source = folder.open().await?;
    assert_eq!(reset(&mut source.watch::<Service>()).await?, ["default/web"]);
    let problem = only(source.problems())?;
    assert_eq!((problem.field.as_deref(), problem.severity), (Some("spec.selectro"), Severity::Warning));
    assert_eq!(problem.place, folder.at("web.yaml", 6, 13));
    Ok(())
}

#[tokio::test]
async fn an_object_in_two_files_is_an_error_that_names_both() -> Result<()> {
    let folder = Folder::new()?;
    folder.write("b.yaml", &service("web", 2))?;
    let source = folder.open().await?;
    let mut services = source.watch::<Service>();
    reset(&mut services).await?;
    folder.write("c.yaml", &format!("{}---\n{}", service("other", 9), service("web", 3)))?;
    // The rest of the second file counts.
    assert_eq!(applied(&mut services).await?.name_any(), "other");
    let problem = only(source.problems())?;
    assert_eq!(problem.place, folder.at("c.yaml", 10, 1));
    assert!(problem.message.contains("default/web") && problem.message.contains("b.yaml"), "{problem}");
    // With the first gone, the second counts.
    fs::remove_file(folder.path("b.yaml"))?;
    assert_eq!(port(&applied(&mut services).await?), Some(3));
    assert_eq!(source.problems(), []);
    // Twice in one file is an error of that file.
    folder.write("c.yaml", &format!("{}---\n{}", service("web", 4), service("web", 5)))?;
    folder.write("tick.yaml", &service("tick", 1))?;
    assert_eq!(applied(&mut services).await?.name_any(), "tick");
    assert!(only(source.problems())?.message.contains("twice"));
    Ok(())
}

#[tokio::test]
async fn kinds_and_streams_share_what_is_read() -> Result<()> {
    let folder = Folder::new()?;
    folder.write(
        "all.yaml",
        &format!(
            "{}---\napiVersion: v1\nkind: Namespace\nmetadata: {{name: shop, namespace: ignored}}\n",
            service("web", 80)
        ),
    )?;
    let source = folder.open().await?;
    let (mut first, mut second) = (source.watch::<Service>(), source.clone().watch::<Service>());
    let mut namespaces = source.watch::<Namespace>();
    assert_eq!(reset(&mut namespaces).await?, ["/shop"]);
    let Some(Change::Reset(a)) = first.next().await else { bail!("no reset") };
    let Some(Change::Reset(b)) = second.next().await else { bail!("no reset") };
    assert!(Arc::ptr_eq(&a[0], &b[0]), "one object for both");
    drop(source);
    // Streams outlive the handle.
    folder.write("all.yaml", "apiVersion: v1\nkind: Namespace\nmetadata: {name: shop, labels: {a: b}}\n")?;
    assert_eq!(applied(&mut namespaces).await?.labels()["a"], "b");
    assert_eq!(deleted(&mut first).await?.name_any(), "web");
    assert_eq!(deleted(&mut second).await?.name_any(), "web");
    Ok(())
}

#[tokio::test]
async fn a_list_is_what_it_holds() -> Result<()> {
    let folder = Folder::new()?;
    folder.write(
        "list.yaml",
        "apiVersion: v1\nkind: List\nitems:\n- apiVersion: v1\n  kind: Service\n  metadata: {name: a}\n- apiVersion: v1\n  kind: Secret\n  metadata: {name: s}\n",
    )?;
    let source = folder.open().await?;
    assert_eq!(reset(&mut source.watch::<Service>()).await?, ["default/a"]);
    assert_eq!(source.problems(), []);
    Ok(())
}

#[tokio::test]
async fn a_mounted_config_map_changes_as_a_whole() -> Result<()> {
    let folder = Folder::new()?;
    let data = |name: &str, port: i32| -> Result<()> {
        fs::create_dir(folder.path(name))?;
        folder.write(&format!("{name}/web.yaml"), &service("web", port))?;
        Ok(fs::write(folder.path(name).join("db.yaml"), service("db", port))?)
    };
    data("..1", 80)?;
    symlink("..1", folder.path("..data"))?;
    symlink("..data/web.yaml", folder.path("web.yaml"))?;
    symlink("..data/db.yaml", folder.path("db.yaml"))?;
    let source = folder.open().await?;
    let mut services = source.watch::<Service>();
    assert_eq!(reset(&mut services).await?, ["default/db", "default/web"]);
    data("..2", 81)?;
    symlink("..2", folder.path("..data_tmp"))?;
    fs::rename(folder.path("..data_tmp"), folder.path("..data"))?;
    fs::remove_dir_all(folder.path("..1"))?;
    let now = [applied(&mut services).await?, applied(&mut services).await?].map(|service| port(&service));
    assert_eq!(now, [Some(81), Some(81)]);
    Ok(())
}

#[tokio::test]
async fn what_a_link_points_to_outside_is_seen_as_well() -> Result<()> {
    let (folder, outside) = (Folder::new()?, Folder::new()?);
    outside.write("web.yaml", &service("web", 80))?;
    symlink(outside.path("web.yaml"), folder.path("web.yaml"))?;
    let source = folder.open().await?;
    let mut services = source.watch::<Service>();
    reset(&mut services).await?;
    // No watch tells of this: the regular look does.
    outside.write("web.yaml", &service("web", 8080))?;
    assert_eq!(port(&applied(&mut services).await?), Some(8080));
    Ok(())
}

#[tokio::test]
async fn a_folder_that_vanishes_keeps_its_state_and_may_come_back() -> Result<()> {
    let parent = Folder::new()?;
    let path = parent.path("manifests");
    fs::create_dir(&path)?;
    fs::write(path.join("web.yaml"), service("web", 80))?;
    let source = AnySource::folder(path.clone()).await?;
    let mut services = source.watch::<Service>();
    reset(&mut services).await?;
    fs::rename(&path, parent.path("away"))?;
    // The next look finds no folder, and says so.
    let mut pods = source.watch::<Pod>();
    assert_eq!(reset(&mut pods).await?, [""; 0]);
    let problem = only(source.problems())?;
    assert_eq!(problem.place, Place::File { path: path.clone(), position: None });
    let mut late = source.watch::<Service>();
    assert_eq!(reset(&mut late).await?, ["default/web"]);
    // Another folder of the same name is watched from then on.
    fs::create_dir(&path)?;
    fs::write(path.join("db.yaml"), service("db", 5432))?;
    assert_eq!(deleted(&mut services).await?.name_any(), "web");
    assert_eq!(applied(&mut services).await?.name_any(), "db");
    fs::write(path.join("db.yaml"), service("db", 5433))?;
    assert_eq!(port(&applied(&mut services).await?), Some(5433));
    assert_eq!(source.problems(), []);
    Ok(())
}

#[tokio::test]
async fn a_folder_that_is_not_there_is_refused() -> Result<()> {
    let folder = Folder::new()?;
    folder.write("file.yaml", "")?;
    for path in [folder.path("missing"), folder.path("file.yaml")] {
        let spec: SourceSpec = format!("folder:{}", path.display()).parse()?;
        let error = spec.open(None).await.err().context("opened")?;
        assert!(matches!(&error, OpenError::Folder { path: named, .. } if *named == path), "{error}");
    }
    for spec in ["", "folder", "folder:", "kubernetes:", "etcd:x", "Kubernetes"] {
        assert!(spec.parse::<SourceSpec>().is_err(), "{spec:?}");
    }
    assert_eq!("kubernetes".parse::<SourceSpec>()?.to_string(), "kubernetes");
    Ok(())
}

struct Folder(TempDir);

impl Folder {
    fn new() -> Result<Self> {
        Ok(Self(tempfile::tempdir()?))
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn write(&self, name: &str, text: &str) -> Result<()> {
        Ok(fs::write(self.path(name), text)?)
    }

    fn at(&self, name: &str, line: u64, column: u64) -> Place {
        Place::File { path: self.path(name), position: Some((line, column)) }
    }

    async fn open(&self) -> Result<AnySource> {
        let path: &Path = self.0.path();
        Ok(format!("folder:{}", path.display()).parse::<SourceSpec>()?.open(None).await?)
    }
}

/// Nine lines.
fn service(name: &str, port: i32) -> String {
    format!(
        "apiVersion: v1\nkind: Service\nmetadata:\n  name: {name}\nspec:\n  selector: {{app: {name}}}\n  ports:\n  - port: {port}\n    name: main\n"
    )
}

fn port(service: &Arc<Service>) -> Option<i32> {
    Some(service.spec.as_ref()?.ports.as_ref()?.first()?.port)
}

fn only(problems: Vec<Problem>) -> Result<Problem> {
    match <[Problem; 1]>::try_from(problems) {
        Ok([problem]) => Ok(problem),
        Err(problems) => bail!("{} problems: {problems:?}", problems.len()),
    }
}

async fn reset<K: Watched>(stream: &mut BoxStream<'static, Change<K>>) -> Result<Vec<String>> {
    match stream.next().await {
        Some(Change::Reset(all)) => {
            let name = |object: &Arc<K>| {
                let meta = object.meta();
                format!("{}/{}", meta.namespace.as_deref().unwrap_or(""), meta.name.as_deref().unwrap_or(""))
            };
            let mut names: Vec<String> = all.iter().map(name).collect();
            names.sort();
            Ok(names)
        }
        other => bail!("not a reset: {other:?}"),
    }
}

async fn applied<K: Watched>(stream: &mut BoxStream<'static, Change<K>>) -> Result<Arc<K>> {
    match stream.next().await {
        Some(Change::Applied(object)) => Ok(object),
        other => bail!("not an application: {other:?}"),
    }
}

async fn deleted<K: Watched>(stream: &mut BoxStream<'static, Change<K>>) -> Result<Arc<K>> {
    match stream.next().await {
        Some(Change::Deleted(object)) => Ok(object),
        other => bail!("not a deletion: {other:?}"),
    }
}
