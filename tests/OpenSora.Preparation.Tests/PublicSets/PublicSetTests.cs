using System.Globalization;
using System.Text;
using OpenSora.Preparation.PublicSets;
using OpenSora.Preparation.PublicSets.Lists;

namespace OpenSora.Preparation.Tests.PublicSets;

public sealed class PublicSetTests : IDisposable
{
    private readonly TemporaryFolder _folder = new();
    private readonly List<PublicSetNotice> _notices = [];

    public void Dispose() => _folder.Dispose();

    private async Task<List<PublicSetEntry>> ReadAsync(PublicSet set, string path) =>
        await set.ReadAsync(path, _notices.Add, TestContext.Current.CancellationToken).ToListAsync(TestContext.Current.CancellationToken);

    private string Write(string name, string text)
    {
        Directory.CreateDirectory(Path.GetDirectoryName(_folder[name])!);
        File.WriteAllText(_folder[name], text);
        return _folder[name];
    }

    private async Task<string> ErrorAsync(PublicSet set, string path)
    {
        var error = await Should.ThrowAsync<PreparationException>(() => ReadAsync(set, path));
        error.Reason.ShouldBe("invalid list");
        error.Message.ShouldContain(path);
        return error.Message;
    }

    [Fact]
    public async Task PandaRowsBecomeOneEntryForEachClip()
    {
        var path = Write(
            "panda.csv",
            """"
            videoID,url,timestamp,caption,matching_score,shot_boundary_detection
            abc,https://www.youtube.com/watch?v=abc,"[['0:00:06.000', '0:01:54.500'], ['1:02:03.25', '1:02:10']]","['A man, ""who"" smiles.', ""It's a dog.""]","[0.5, 4.3e-1]","[[['0:00:00.000', '0:00:04.000']], [['0:00:00', '0:00:01'], ['0:00:01', '0:00:07']]]"
            -x_9,https://www.youtube.com/watch?v=-x_9,"[['0:00:00.000', '0:00:01.000']]",['caf\xe9 \U0001f600'],[0.9],[[]]
            """".ReplaceLineEndings("\r\n")
        );

        var entries = await ReadAsync(PublicSet.Panda70M, path);
        entries.Select(entry => entry.Id).ShouldBe(["abc_00000", "abc_00001", "-x_9_00000"]);
        entries.Select(entry => entry.Caption).ShouldBe(["A man, \"who\" smiles.", "It's a dog.", "café 😀"]);
        entries[0].Start.ShouldBe(TimeSpan.FromSeconds(6));
        entries[0].End.ShouldBe(TimeSpan.FromSeconds(114.5));
        entries[1].Start.ShouldBe(TimeSpan.FromSeconds(3723.25));
        entries[1].Columns["matching_score"].ShouldBe("4.3e-1");
        entries[1].Columns["shot_boundary_detection"].ShouldBe("[[0:00:00, 0:00:01], [0:00:01, 0:00:07]]");
        entries.ShouldAllBe(entry => entry.Set == "Panda-70M" && entry.Url == "https://www.youtube.com/watch?v=" + entry.VideoId);
        _notices.ShouldBeEmpty();
    }

    [Theory]
    [InlineData("a,u,\"[['0:00:01', '0:00:02']]\",\"['x', 'y']\"", "line 2: The video a has 1 timestamps and 2 captions")]
    [InlineData("a,u,\"[['0:00:02', '0:00:01']]\",['x']", "line 2: Timestamp 1 of the video a")]
    [InlineData("a,u,\"[['0:00:75', '0:02:01']]\",['x']", "line 2: Timestamp 1 of the video a")]
    [InlineData("a,u,\"[['0:00:01', '0:00:02']]\",['x'\n\na,u,[],[]", "line 2: The column caption is not a Python list: expected more text")]
    [InlineData("a,u,[],[]\n\"b\nb\",u,[],[]\nc,u,[]", "line 5: The row has 3 values; the header has 4")]
    [InlineData("a,u,[],\"[]\"x", "line 2: The row is not valid CSV")]
    [InlineData(",u,[],[]", "line 2: The row has no videoID")]
    public async Task InvalidRowsAreErrorsWithFileAndLine(string rows, string expected) =>
        (await ErrorAsync(PublicSet.Panda70M, Write("p.csv", "videoID,url,timestamp,caption\n" + rows))).ShouldContain(expected);

    [Fact]
    public async Task OtherFilesAreNotTakenForAList()
    {
        (await ErrorAsync(PublicSet.Panda70M, Write("w.csv", "videoid,name\n1,x\n"))).ShouldContain("line 1: The header has no column videoID");
        (await ErrorAsync(PublicSet.WebVid10M, Write("e.csv", ""))).ShouldContain("The file is empty");
        File.WriteAllBytes(_folder["l1.csv"], [.. "videoid,contentUrl,name\n1,u,x\n2,u,caf"u8, 0xE9, (byte)'\n']);
        (await ErrorAsync(PublicSet.WebVid10M, _folder["l1.csv"])).ShouldContain("not valid UTF-8");
        (await ErrorAsync(PublicSet.HdVg130M, Write("a.json", "[]"))).ShouldContain("line 1: The file is not a JSON object");
        (await ErrorAsync(PublicSet.MsrVtt, Write("o.json", "{\"a\": 1}"))).ShouldContain("neither 'videos' nor 'annotations'");
        Should.Throw<FileNotFoundException>(() => PublicSet.MsrVtt.ReadAsync(_folder["missing"])).Message.ShouldContain("MSR-VTT");
        PublicSet.Find("webvid 10m").ShouldBe(PublicSet.WebVid10M);
        Should.Throw<ArgumentException>(() => PublicSet.Find("laion")).Message.ShouldContain("HD-VG-130M, Panda-70M");
    }

    [Fact]
    public async Task WebVidRowsWithoutCaptionAreReported()
    {
        var path = Write(
            "webvid.csv",
            "videoid,contentUrl,duration,page_dir,name\n21179416,https://example.test/a.mp4,PT00H00M11S,006001_006050,\"Aerial shot, winter\"\n"
                + "5,https://example.test/b.mp4,PT00H00M30S,,\n6,,PT00H00M30S,x,no address\n"
        );
        var entries = await ReadAsync(PublicSet.WebVid10M, path);
        entries.Select(entry => (entry.Id, entry.Caption)).ShouldBe([("21179416", "Aerial shot, winter"), ("5", null)]);
        entries[0].Columns["page_dir"].ShouldBe("006001_006050");
        _notices.Select(notice => (notice.Line, notice.Reason)).ShouldBe([(3, "no caption"), (4, "no address")]);
    }

    [Fact]
    public async Task HdVgScenesAreCutAtFramesOfTheSpan()
    {
        var path = Write(
            "hdvg_0.json",
            """
            {"vid1": {"url": "https://www.youtube.com/watch?v=vid1", "clip": {
              "vid1.0.mp4": {"span": ["00:00:10.000", "00:00:20.000"], "fps": 25.0, "scene_split": [
                {"clip_id": "vid1.0_0", "scene_cut": [0, 50], "caption": " a cat "},
                {"clip_id": "vid1.0_1", "scene_cut": ["50", "125"], "caption": "a dog"}]},
              "vid1.7.mp4": {"span": ["01:00:00.000", "01:00:05.500"], "scene_split": [{"clip_id": "vid1.7_0", "scene_cut": [0, -1], "caption": ""}]}}},
             "vid2": {"url": "https://www.youtube.com/watch?v=vid2", "clip": {}}}
            """
        );
        var entries = await ReadAsync(PublicSet.HdVg130M, path);
        entries
            .Select(entry =>
                FormattableString.Invariant(
                    $"{entry.VideoId} {entry.Id} {entry.Start!.Value.TotalSeconds} {entry.End!.Value.TotalSeconds} {entry.Caption}"
                )
            )
            .ShouldBe(["vid1 vid1.0_0 10 12 a cat", "vid1 vid1.0_1 12 15 a dog", "vid1 vid1.7_0 3600 3605.5 "]);
        _notices.Single().Reason.ShouldBe("no caption");

        (
            await ErrorAsync(PublicSet.HdVg130M, Write("bad.json", "{\n\"v\": {\"url\": \"u\", \"clip\": {\"c\": {\"span\": [\"1\", \"0\"]}}}}"))
        ).ShouldContain("line 2: The clip 'c' has no 'span'");
        (await ErrorAsync(PublicSet.HdVg130M, Write("cut.json", "{\n\"v\": {\"url\": \"u\", \"clip\": {}},\n\"w\": {\"url\": "))).ShouldContain(
            "line 3: The file is not valid JSON"
        );
    }

    [Fact]
    public async Task LargeJsonIsReadWithBoundedMemory()
    {
        const int videos = 40_000;
        var path = _folder["large.json"];
        await using (var writer = new StreamWriter(path))
        {
            await writer.WriteAsync("\uFEFF{");
            var caption = new string('c', 600);
            for (var i = 0; i < videos; i++)
            {
                var scene = $"{{\"clip_id\": \"{i}\", \"scene_cut\": [0, -1], \"caption\": \"{caption}\"}}";
                await writer.WriteAsync(i == 0 ? "\n" : ",\n");
                await writer.WriteAsync(
                    $"\"v{i}\": {{\"url\": \"u\", \"clip\": {{\"c\": {{\"span\": [\"0:0:1\", \"0:0:2\"], \"scene_split\": [{scene}]}}}}}}"
                );
            }

            await writer.WriteAsync("}");
        }

        new FileInfo(path).Length.ShouldBeGreaterThan(25 << 20);
        var before = GC.GetTotalMemory(forceFullCollection: true);
        var (count, most) = (0, 0L);
        await foreach (var entry in PublicSet.HdVg130M.ReadAsync(path, cancellationToken: TestContext.Current.CancellationToken))
        {
            entry.Id.ShouldBe(count.ToString(CultureInfo.InvariantCulture));
            if (count++ % 10_000 == 0)
            {
                most = Math.Max(most, GC.GetTotalMemory(forceFullCollection: true) - before);
            }
        }

        count.ShouldBe(videos);
        most.ShouldBeLessThan(8 << 20);
    }

    [Fact]
    public async Task MsrVttVideosHaveAllTheirCaptions()
    {
        var path = Write(
            "msrvtt.json",
            """
            {"info": {"year": "2016"},
             "videos": [{"category": 9, "url": "https://www.youtube.com/watch?v=9lZi22qLlEo", "video_id": "video0", "start time": 137.72, "end time": 149.44, "split": "train", "id": 0},
                        {"category": 3, "url": "https://www.youtube.com/watch?v=w4JM08PDEng", "video_id": "video1", "start time": 0, "end time": 10.5, "split": "validate", "id": 1}],
             "sentences": [{"caption": "a car is shown", "video_id": "video1", "sen_id": 0}, {"caption": "a woman speaks", "video_id": "video0", "sen_id": 1},
                           {"caption": "people talk", "video_id": "video1", "sen_id": 2}, {"caption": "lost", "video_id": "video77", "sen_id": 3}]}
            """
        );
        var entries = await ReadAsync(PublicSet.MsrVtt, path);
        entries.Select(entry => entry.Id).ShouldBe(["video0", "video1"]);
        entries[0].Start.ShouldBe(TimeSpan.FromSeconds(137.72));
        entries[0].Columns["split"].ShouldBe("train");
        entries[1].Caption.ShouldBe("a car is shown");
        entries[1].OtherCaptions.ShouldBe(["people talk"]);
        _notices.Single().Reason.ShouldBe("caption without a video");

        // A clip that exists as a file is used instead of its address, from its start.
        Write("TrainValVideo/video1.mp4", "x");
        var local = (await ReadAsync(PublicSet.MsrVtt, path))[1];
        (local.Path, local.Url, local.Start).ShouldBe((_folder["TrainValVideo/video1.mp4"], null, null));

        Write("videos/all/video3.mp4", "x");
        _notices.Clear();
        var coco = Write(
            "annotation/MSR_VTT.json",
            """{"annotations": [{"image_id": "video3", "caption": "one", "id": 1}, {"image_id": "video4", "caption": "two", "id": 2}], "images": [{"id": "video3"}]}"""
        );
        (await ReadAsync(PublicSet.MsrVtt, coco)).Single().Path.ShouldBe(_folder["videos/all/video3.mp4"]);
        _notices.Single().Reason.ShouldBe("file is missing");
        (
            await ErrorAsync(
                PublicSet.MsrVtt,
                Write("t.json", "{\"videos\": [\n{\"video_id\": \"a\", \"url\": \"u\", \"start time\": 5, \"end time\": 5}]}")
            )
        ).ShouldContain("line 2: The video 'a'");
        (await ErrorAsync(PublicSet.MsrVtt, Write("n.json", "{\"videos\":\n 5}"))).ShouldContain("line 2: 'videos' is not a JSON array");
    }

    [Fact]
    public async Task Ucf101IsReadFromFoldersAndLists()
    {
        Write("UCF-101/HandstandPushups/v_HandStandPushups_g01_c01.avi", "x");
        Write("UCF-101/ApplyEyeMakeup/v_ApplyEyeMakeup_g08_c02.avi", "x");
        Write("UCF-101/ApplyEyeMakeup/v_ApplyEyeMakeup_g08_c01.avi", "x");
        Write("UCF-101/ApplyEyeMakeup/Thumbs.db", "x");
        var entries = await ReadAsync(PublicSet.Ucf101, _folder["UCF-101"]);
        entries.Select(entry => entry.Id).ShouldBe(["v_ApplyEyeMakeup_g08_c01", "v_ApplyEyeMakeup_g08_c02", "v_HandStandPushups_g01_c01"]);
        (entries[0].Class, entries[0].Caption).ShouldBe(("ApplyEyeMakeup", "Apply Eye Makeup"));
        _notices.Single().Message.ShouldContain("Thumbs.db");

        _notices.Clear();
        Write("splits/classInd.txt", "1 ApplyEyeMakeup\r\n37 HandStandPushups\r\n");
        var list = Write(
            "splits/trainlist01.txt",
            "ApplyEyeMakeup/v_ApplyEyeMakeup_g08_c01.avi 1\r\nHandstandPushups/v_HandStandPushups_g01_c01.avi 37\r\n\r\nApplyEyeMakeup/v_gone.avi 1\r\n"
        );
        (await ReadAsync(PublicSet.Ucf101, list)).Select(entry => entry.Class).ShouldBe(["ApplyEyeMakeup", "HandstandPushups"]);
        (_notices.Single().Line, _notices[0].Reason).ShouldBe((4, "file is missing"));
        (await ReadAsync(PublicSet.Ucf101, Write("splits/testlist01.txt", "ApplyEyeMakeup/v_ApplyEyeMakeup_g08_c02.avi\r\n"))).Count.ShouldBe(1);
        (await ErrorAsync(PublicSet.Ucf101, Write("splits/x.txt", "ApplyEyeMakeup/v_ApplyEyeMakeup_g08_c01.avi 37"))).ShouldContain(
            "line 1: Class 37 is not ApplyEyeMakeup"
        );
        (await ErrorAsync(PublicSet.Ucf101, Write("splits/y.txt", "\n../../etc/passwd 1"))).ShouldContain("line 2:");
        await ErrorAsync(PublicSet.Ucf101, _folder["splits"]);
        ListValues.Words("YoYo").ShouldBe("Yo Yo");
        ListValues.Words("WatchTVShow").ShouldBe("Watch TV Show");
    }

    [Fact]
    public async Task ImageNetIsReadFromFoldersOfClassesAndFromTheFlatFolder()
    {
        Write("ILSVRC/Data/CLS-LOC/train/n01440764/n01440764_10026.JPEG", "x");
        Write("ILSVRC/Data/CLS-LOC/train/n01443537/n01443537_2.JPEG", "x");
        Write("ILSVRC/Data/CLS-LOC/val/ILSVRC2012_val_00000001.JPEG", "x");
        (await ReadAsync(PublicSet.ImageNet, _folder["ILSVRC/Data/CLS-LOC/train"])).ShouldAllBe(entry => entry.Caption == null);
        _notices.Single().Reason.ShouldBe("no names of classes");

        Write("LOC_synset_mapping.txt", "n01440764 tench, Tinca tinca\nn01443537 goldfish, Carassius auratus\n");
        (await ReadAsync(PublicSet.ImageNet, _folder["ILSVRC/Data/CLS-LOC/train/"]))
            .Select(entry => (entry.Id, entry.Class, entry.Caption))
            .ShouldBe([("n01440764_10026", "n01440764", "tench"), ("n01443537_2", "n01443537", "goldfish")]);

        (await ErrorAsync(PublicSet.ImageNet, _folder["ILSVRC/Data/CLS-LOC/val"])).ShouldContain("LOC_val_solution.csv");
        Write(
            "LOC_val_solution.csv",
            "ImageId,PredictionString\nILSVRC2012_val_00000001,n01443537 108 13 208 317 \nILSVRC2012_val_00000002,n01443537 1 1 2 2 \n"
        );
        _notices.Clear();
        (await ReadAsync(PublicSet.ImageNet, _folder["ILSVRC/Data/CLS-LOC/val"])).Single().Caption.ShouldBe("goldfish");
        _notices.Single().Reason.ShouldBe("file is missing");
    }

    [Theory]
    [InlineData("90.25", 90.25)]
    [InlineData("1:30", 90.0)]
    [InlineData("00:00:07.107", 7.107)]
    [InlineData("100:00:00", 360000.0)]
    [InlineData("-1", null)]
    [InlineData("1e3", null)]
    [InlineData("0:60", null)]
    [InlineData("1.5:00", null)]
    [InlineData("", null)]
    [InlineData("1:2:3:4", null)]
    public void TimesAreParsedStrictly(string text, double? expected) => (ListValues.Time(text)?.TotalSeconds).ShouldBe(expected);

    [Theory]
    [InlineData("")]
    [InlineData("'a'")]
    [InlineData("[1 2]")]
    [InlineData("['a]")]
    [InlineData("[1)")]
    [InlineData("[1] x")]
    [InlineData("['\\x4']")]
    [InlineData("[[[[[[[[[[[]]]]]]]]]]]")]
    public void TextThatIsNotAPythonListIsAnError(string text) => Should.Throw<FormatException>(() => ListValues.PythonList(text));
}
