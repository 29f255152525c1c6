using System.Diagnostics;
using System.Runtime.CompilerServices;
using System.Text;
using OpenSora.Media;
using OpenSora.Training.Data;
using Parquet;
using Parquet.Schema;
using TorchSharp;
using static TorchSharp.torch;

namespace OpenSora.Training.Tests;

/// <summary>Files of users as sources of clips: damaged videos, folders with links and other things, tables and texts in other forms.</summary>
public class ClipFileTests
{
    private static readonly VideoReader Reader = new();

    private static string Case(string name, [CallerFilePath] string here = "") =>
        Path.Combine(Path.GetDirectoryName(here)!, "..", "Data", name.EndsWith(".csv", StringComparison.Ordinal) ? "captions" : "video", name);

    [Theory]
    [InlineData("tailcut.mp4")]
    [InlineData("tailnoise.mp4")]
    public async Task A_damaged_video_is_reported_or_has_the_length_that_decodes(string name)
    {
        using var folder = new TemporaryFolder();
        File.Copy(Case("tail.mp4"), folder["a-good.mp4"]);
        File.Copy(Case(name), folder["damaged.mp4"]);
        var clip = new ClipOptions
        {
            Width = 16,
            Height = 16,
            Frames = 48,
        };
        var strict = VideoTable.FromFolder(folder.Path, Reader, clip);
        (await Should.ThrowAsync<MediaException>(() => strict.SizesAsync())).Message.ShouldContain("damaged.mp4");
        var bad = new List<(int Index, string Reason)>();
        var sizes = await strict.SizesAsync(new Listed(bad));
        sizes.Select(size => size.Frames).ShouldBe([50, 0]);
        bad.ShouldHaveSingleItem().Reason.ShouldContain("25 frames");
        await Should.ThrowAsync<MediaException>(() => strict.LoadAsync(1, new Random(0)).AsTask());
        await Should.ThrowAsync<MediaException>(() => strict.Vary(start: true).LoadAsync(1, new Random(0)).AsTask());

        clip.AllowDamage = true;
        var lenient = VideoTable.FromFolder(folder.Path, Reader, clip);
        lenient.Fingerprint.ShouldNotBe(strict.Fingerprint);
        (await lenient.SizesAsync()).Select(size => size.Frames).ShouldBe([50, 25]);
        var message = (await Should.ThrowAsync<InvalidDataException>(() => lenient.LoadAsync(1, new Random(0)).AsTask())).Message;
        message.ShouldContain("damaged.mp4' has 25 frames for a clip of 48");
        message.ShouldContain("PadShortClips");
        lenient.PadShortClips().Fingerprint.ShouldNotBe(lenient.Fingerprint);
        using (var padded = await lenient.PadShortClips().LoadAsync(1, new Random(0)))
        {
            padded.Video.shape.ShouldBe([3, 48, 16, 16]);
        }

        // Whatever the random start is, the clip is complete.
        using var programs = new TemporaryFolder();
        var varied = new VideoTable(
            await TableAsync(folder, "damaged.mp4"),
            await CountingReaderAsync(programs),
            new ClipOptions { Frames = 4, AllowDamage = true }
        );
        varied = varied.Vary(start: true);
        for (var i = 0; i < 12; i++)
        {
            using var part = await varied.LoadAsync(0, new Random(i));
            part.Video.shape[1].ShouldBe(4);
        }

        (await varied.Select([0]).SizesAsync()).ShouldBe([(25, 48, 64)]);
        (await File.ReadAllLinesAsync(programs["ffmpeg.log"])).Length.ShouldBe(1); // the length was measured once
    }

    [Fact]
    public async Task A_start_and_an_interval_shorten_a_clip()
    {
        using var folder = new TemporaryFolder();
        File.Copy(Case("tail.mp4"), folder["a.mp4"]);
        foreach (var (start, interval, rate) in new (int, int, double?)[] { (0, 3, null), (49, 1, null), (7, 4, 5), (60, 2, null) })
        {
            var clip = new ClipOptions
            {
                StartFrame = start,
                FrameInterval = interval,
                FramesPerSecond = rate,
            };
            var size = (await VideoTable.FromFolder(folder.Path, Reader, clip).SizesAsync())[0].Frames;
            size.ShouldBe(await Reader.CountFramesAsync(folder["a.mp4"], clip), $"{start} {interval} {rate}");
        }
    }

    // The same picture, stored as 80x80 square pixels and as 40x80 pixels that are twice as wide as high.
    [Fact]
    public async Task Buckets_and_random_crops_use_the_size_that_is_shown()
    {
        using var folder = new TemporaryFolder();
        File.Copy(Case("sq1.mp4"), folder["sq1.mp4"]);
        File.Copy(Case("sq2.mp4"), folder["sq2.mp4"]);
        var table = VideoTable.FromFolder(folder.Path, Reader, new ClipOptions());
        (await table.SizesAsync()).ShouldBe([(10, 80, 80), (10, 80, 80)]);

        var clip = new ClipOptions
        {
            Width = 64,
            Height = 32,
            Frames = 1,
        };
        var crops = VideoTable.FromFolder(folder.Path, Reader, clip).Vary(crop: true);
        for (var seed = 0; seed < 4; seed++)
        {
            using var square = await crops.LoadAsync(0, new Random(seed));
            using var wide = await crops.LoadAsync(1, new Random(seed));
            using var difference = (square.Video - wide.Video).abs().mean();
            difference.item<float>().ShouldBeLessThan(10 / 127.5f);
        }
    }

    [Fact]
    public async Task An_image_has_one_frame_at_every_rate()
    {
        using var folder = new TemporaryFolder();
        using (var scope = NewDisposeScope())
        {
            await new VideoWriter().WriteAsync(VideoFrames.FromTensor(zeros([3L, 1L, 16L, 16L]), 8), folder["a.png"], VideoFormat.Image);
        }

        var table = VideoTable.FromFolder(folder.Path, Reader, new ClipOptions { FramesPerSecond = 8, Frames = 1 });
        (await table.SizesAsync()).ShouldBe([(1, 16, 16)]);
        using var clip = await table.LoadAsync(0, new Random(0));
        clip.Video.shape.ShouldBe([3, 1, 16, 16]);
        var longer = VideoTable.FromFolder(folder.Path, Reader, new ClipOptions { FramesPerSecond = 8, Frames = 2 });
        (await Should.ThrowAsync<InvalidDataException>(() => longer.LoadAsync(0, new Random(0)).AsTask())).Message.ShouldContain("has 1 frames");
    }

    [Fact]
    public async Task A_folder_lists_each_clip_once_and_reports_the_rest()
    {
        using var folder = new TemporaryFolder();
        using var outside = new TemporaryFolder();
        foreach (var name in new[] { "clips", "clips/sub", "clips/.hidden", "clips/__MACOSX", "clips/locked" })
        {
            Directory.CreateDirectory(folder[name]);
        }

        string[] clips = ["dog_one.mp4", "b.MPG", "c.wmv", "d.ts", "e.flv", "f.m4v", "g.mts", "h.m2ts", "i.3gp", "j.ogv", "sub/k.mpeg"];
        foreach (
            var name in clips.Concat([".hidden/h.mp4", "._dog_one.mp4", "__MACOSX/._x.mp4", "__MACOSX/y.mp4", "locked/l.mp4", ".z.mp4", "notes.md"])
        )
        {
            await File.WriteAllTextAsync(folder["clips/" + name], name);
        }

        await File.WriteAllTextAsync(folder["clips/c.txt"], "a caption");
        await File.WriteAllTextAsync(outside["far.mp4"], "far");
        await File.WriteAllTextAsync(outside["far.txt"], "from far");
        Directory.CreateDirectory(outside["deep"]);
        await File.WriteAllTextAsync(outside["deep/deep.mp4"], "deep");
        Directory.CreateSymbolicLink(folder["clips/sub/loop"], "..");
        Directory.CreateSymbolicLink(folder["clips/all"], folder.Path);
        Directory.CreateSymbolicLink(folder["clips/again"], "sub");
        Directory.CreateSymbolicLink(folder["clips/other"], outside["deep"]);
        File.CreateSymbolicLink(folder["clips/a-link.mp4"], "dog_one.mp4");
        File.CreateSymbolicLink(folder["clips/far.mp4"], outside["far.mp4"]);
        File.CreateSymbolicLink(folder["clips/nothing.mp4"], "missing.mp4");
        File.CreateSymbolicLink(folder["clips/self.mp4"], "self.mp4");
        Run("ln", folder["clips/c.wmv"], folder["clips/z-hard.wmv"]);
        Run("mkfifo", folder["clips/pipe.mp4"]);

        var listing = new ClipFolder(folder["clips"] + "/")
        {
            Entries = path =>
                path.EndsWith("locked", StringComparison.Ordinal)
                    ? throw new UnauthorizedAccessException("Access is denied.")
                    : new DirectoryInfo(path).EnumerateFileSystemInfos(),
        };
        var (files, passedOver) = listing.List();
        files.ShouldBe(clips.Concat(["far.mp4", "other/deep.mp4"]).Order(StringComparer.Ordinal));
        passedOver
            .Select(other => $"{Path.GetRelativePath(folder["clips"], other.Path)} {other.Reason}")
            .ShouldBe([
                "._dog_one.mp4 holds file attributes of macOS",
                ".hidden is hidden",
                ".z.mp4 is hidden",
                "__MACOSX is a folder of the system",
                "a-link.mp4 is the same file as 'dog_one.mp4'",
                "again leads to a folder that is already listed",
                "all is a link to a folder that contains it",
                "locked cannot be read: Access is denied.",
                "notes.md is not a video or image according to its extension",
                "nothing.mp4 is a link that leads to nothing",
                "pipe.mp4 is a pipe, not a file",
                "self.mp4 is a link that leads to nothing",
                "sub/loop is a link to a folder that contains it",
                "z-hard.wmv is the same file as 'c.wmv'",
            ]);

        Directory.Delete(folder["clips/locked"], recursive: true);
        var table = VideoTable.FromFolder(folder["clips"], Reader, new ClipOptions());
        table.Paths.Select(path => Path.GetRelativePath(folder["clips"], path)).ShouldBe(files);
        table.PassedOver.Count.ShouldBe(passedOver.Count - 1);
        table.Vary(mirror: 1).Select([0]).PassedOver.ShouldBe(table.PassedOver);
        Directory.CreateDirectory(folder["hidden/.only"]);
        Should
            .Throw<InvalidDataException>(() => VideoTable.FromFolder(folder["hidden"], Reader, new ClipOptions()))
            .Message.ShouldContain("1 entries were passed over");
    }

    [Fact]
    public async Task Clips_of_other_containers_have_the_length_that_decodes()
    {
        using var folder = new TemporaryFolder();
        foreach (var extension in new[] { "mpg", "wmv", "flv", "ts", "m4v", "mts", "avi", "ogv", "3gp" })
        {
            string[] size = extension is "3gp" ? ["-s", "176x144"] : []; // a size of its codec
            Run("ffmpeg", ["-v", "error", "-i", Case("tail.mp4"), "-r", "25", "-t", "1", "-an", .. size, folder[$"x.{extension}"]]);
        }

        var table = VideoTable.FromFolder(folder.Path, Reader, new ClipOptions());
        table.Count.ShouldBe(9);
        foreach (var (index, (frames, _, _)) in (await table.SizesAsync()).Index())
        {
            frames.ShouldBeGreaterThan(0);
            using var clip = await table.LoadAsync(index, new Random(0));
            clip.Video.shape[1].ShouldBe(frames, table.Paths[index]);
        }
    }

    [Fact]
    public async Task A_linked_clip_has_the_caption_beside_the_link_or_beside_the_file()
    {
        using var folder = new TemporaryFolder();
        Directory.CreateDirectory(folder["clips"]);
        File.Copy(Case("tail.mp4"), folder["real.mp4"]);
        await File.WriteAllTextAsync(folder["real.txt"], "a real caption");
        File.CreateSymbolicLink(folder["clips/link.mp4"], folder["real.mp4"]);
        await CaptionAsync("a real caption");
        await File.WriteAllTextAsync(folder["clips/link.txt"], "of the link");
        await CaptionAsync("of the link");

        async Task CaptionAsync(string expected)
        {
            using var clip = await VideoTable.FromFolder(folder["clips"], Reader, new ClipOptions { Frames = 1 }).LoadAsync(0, new Random(0));
            clip.Captions.ShouldBe([expected]);
        }
    }

    public static TheoryData<string, bool> Encodings =>
        new(from name in new[] { "utf-8", "utf-16", "utf-16BE", "utf-32" } from isTable in new[] { true, false } select (name, isTable));

    [Theory]
    [MemberData(nameof(Encodings))]
    public async Task Captions_with_a_byte_order_mark_are_read(string encoding, bool isTable)
    {
        using var folder = new TemporaryFolder();
        File.Copy(Case("tail.mp4"), folder["añ.mp4"]);
        const string Caption = "ein Café, 猫 🐈";
        await File.WriteAllTextAsync(
            folder[isTable ? "list.csv" : "añ.txt"],
            isTable ? $"path,caption\r\nañ.mp4,\"{Caption}\"\r\n" : $"{Caption}\r\n\r\nmore",
            Encoding.GetEncoding(encoding)
        );
        var clip = new ClipOptions { Frames = 1 };
        var table = isTable ? new VideoTable(folder["list.csv"], Reader, clip) : VideoTable.FromFolder(folder.Path, Reader, clip);
        using var loaded = await table.LoadAsync(0, new Random(0));
        loaded.Captions.ShouldBe(isTable ? [Caption] : [Caption, "more"]);
    }

    [Fact]
    public async Task Text_in_another_encoding_is_an_error_with_its_line()
    {
        using var folder = new TemporaryFolder();
        Invalid(Case("cp1252.csv")).ShouldContain("Line 2");
        Invalid(Case("cp1252.csv")).ShouldContain("a caf?, the artist?s");
        Invalid(Case("cp1252path.csv")).ShouldContain("cp1252path.csv");

        // Far from the beginning, at the end of the file, and in UTF-16 that is incomplete or lacks its mark.
        var rows = string.Concat(Enumerable.Range(0, 5000).Select(i => $"{i}.mp4,a caption\n"));
        await File.WriteAllBytesAsync(folder["long.csv"], [.. Encoding.UTF8.GetBytes("path,caption\n" + rows), 0x61, 0xE9]);
        Invalid(folder["long.csv"]).ShouldContain("Line 5002");
        await File.WriteAllTextAsync(folder["wide.csv"], "path,caption\na.mp4,x\n", new UnicodeEncoding(false, byteOrderMark: false));
        Invalid(folder["wide.csv"]).ShouldContain("null characters");
        await File.WriteAllBytesAsync(
            folder["half.csv"],
            [.. Encoding.Unicode.Preamble, .. Encoding.Unicode.GetBytes("path,caption\na.mp4,x"), 0x61]
        );
        Invalid(folder["half.csv"]).ShouldContain("Line 2");

        Directory.CreateDirectory(folder["clips"]);
        File.Copy(Case("tail.mp4"), folder["clips/a.mp4"]);
        await File.WriteAllBytesAsync(folder["clips/a.txt"], [.. "one\n\ncaf"u8, 0xE9]);
        var message = Should.Throw<InvalidDataException>(() => VideoTable.FromFolder(folder["clips"], Reader, new ClipOptions())).Message;
        message.ShouldContain("Line 3");
        message.ShouldContain("a.txt");

        string Invalid(string csv) => Should.Throw<InvalidDataException>(() => new VideoTable(csv, Reader, new ClipOptions())).Message;
    }

    [Theory]
    [InlineData("path,text,num_frames\na.mp4,a goat,10\n", "a goat")]
    [InlineData("path;caption\na.mp4;a goat\n", "a goat")]
    [InlineData("path\tcaption\na.mp4\ta goat, white; small\n", "a goat, white; small")]
    [InlineData("path, caption\na.mp4, a goat\n", "a goat")]
    [InlineData("Path , CAPTION\na.mp4 ,  \" a goat, white\" \n", " a goat, white")]
    [InlineData("path,caption\r\r\na.mp4,a goat\r\r\n\r\r\n", "a goat")]
    [InlineData("\npath,caption\n \na.mp4,a goat", "a goat")]
    [InlineData("\"path\";\"caption, short\";\"caption\"\na.mp4;x;a goat\n", "a goat")]
    [InlineData("text,caption,path\nx,a goat,a.mp4\n", "a goat")]
    [InlineData("path,caption\nsub\\b.mp4,a goat\n", "a goat")]
    [InlineData("path,caption\n.\\a.mp4,\"a goat\"\"s,\r\n beard\"\n", "a goat\"s,\r\n beard")]
    public async Task Tables_are_read_as_programs_write_them(string text, string caption)
    {
        using var folder = new TemporaryFolder();
        Directory.CreateDirectory(folder["sub"]);
        File.Copy(Case("tail.mp4"), folder["a.mp4"]);
        File.Copy(Case("tail.mp4"), folder["sub/b.mp4"]);
        await File.WriteAllTextAsync(folder["list.csv"], text);
        using var clip = await new VideoTable(folder["list.csv"], Reader, new ClipOptions { Frames = 1 }).LoadAsync(0, new Random(0));
        clip.Captions.ShouldBe([caption]);
    }

    [Theory]
    [InlineData("opensora.csv")]
    [InlineData("semicolon.csv")]
    [InlineData("spaces.csv")]
    public async Task The_example_tables_are_read(string name)
    {
        using var folder = new TemporaryFolder();
        File.Copy(Case("tail.mp4"), folder["a.mp4"]);
        File.Copy(Case(name), folder[name]);
        using var clip = await new VideoTable(folder[name], Reader, new ClipOptions { Frames = 1 }).LoadAsync(0, new Random(0));
        clip.Captions.ShouldBe(["a goat"]);
    }

    [Fact]
    public async Task Columns_can_be_named()
    {
        using var folder = new TemporaryFolder();
        File.Copy(Case("tail.mp4"), folder["a.mp4"]);
        await File.WriteAllTextAsync(folder["list.csv"], "id;Video File;path;Description;text\n1;a.mp4;x;a goat;y\n");
        var clip = new ClipOptions { Frames = 1 };
        using var loaded = await new VideoTable(folder["list.csv"], Reader, clip, "video file", "description").LoadAsync(0, new Random(0));
        loaded.Captions.ShouldBe(["a goat"]);

        Should
            .Throw<InvalidDataException>(() => new VideoTable(folder["list.csv"], Reader, clip, captionColumn: "words"))
            .Message.ShouldContain("needs the columns path and words, separated by commas, semicolons or tabs; it has id, Video File, path");
        await File.WriteAllTextAsync(folder["list.csv"], "path,text,Text\na.mp4,a,b\n");
        Should.Throw<InvalidDataException>(() => new VideoTable(folder["list.csv"], Reader, clip)).Message.ShouldContain("several columns");
    }

    [Fact]
    public async Task Parquet_files_are_read()
    {
        using var folder = new TemporaryFolder();
        File.Copy(Case("tail.mp4"), folder["a.mp4"]);
        File.Copy(Case("tail.mp4"), folder["b.mp4"]);
        var clip = new ClipOptions { Frames = 1 };
        await WriteAsync(("Path", ["a.mp4", "b.mp4", "a.mp4"]), ("text", ["a goat,\n\"white\"", null, "Ziege 🐐"]), ("other", ["x", "y", "z"]));
        var table = await VideoTable.OpenAsync(folder["list.parquet"], Reader, clip);
        table.Paths.ShouldBe([folder["a.mp4"], folder["b.mp4"]]);
        using (var loaded = await table.LoadAsync(0, new Random(0)))
        {
            loaded.Captions.ShouldBe(["a goat,\n\"white\"", "Ziege 🐐"]);
        }

        using (var named = await (await VideoTable.OpenAsync(folder["list.parquet"], Reader, clip, "path", "OTHER")).LoadAsync(1, new Random(0)))
        {
            named.Captions.ShouldBe(["y"]);
        }

        (await InvalidAsync(captionColumn: "words")).ShouldEndWith(
            "list.parquet' needs the columns path and words; it has Path, text, other. Name other columns with pathColumn and captionColumn."
        );
        await WriteAsync(("path", ["a.mp4", " "]), ("text", ["x", "y"]));
        (await InvalidAsync()).ShouldStartWith("Record 2 of");
        await WriteAsync(("path", []), ("text", []));
        (await InvalidAsync()).ShouldContain("lists no files");
        await WriteAsync(("path", ["missing.mp4"]), ("text", ["x"]));
        (await Should.ThrowAsync<FileNotFoundException>(() => VideoTable.OpenAsync(folder["list.parquet"], Reader, clip))).Message.ShouldContain(
            "missing.mp4"
        );
        var whole = await File.ReadAllBytesAsync(folder["list.parquet"]);
        await File.WriteAllBytesAsync(folder["list.parquet"], whole[..(whole.Length / 2)]);
        (await InvalidAsync()).ShouldContain("is not a Parquet file, or is damaged");
        await File.WriteAllTextAsync(folder["list.parquet"], "path,text\na.mp4,x\n");
        (await InvalidAsync()).ShouldContain("is not a Parquet file, or is damaged");

        Should.Throw<ArgumentException>(() => new VideoTable(folder["list.parquet"], Reader, clip)).Message.ShouldContain("Use OpenAsync");

        async Task<string> InvalidAsync(string? captionColumn = null) =>
            (
                await Should.ThrowAsync<InvalidDataException>(() =>
                    VideoTable.OpenAsync(folder["list.parquet"], Reader, clip, captionColumn: captionColumn)
                )
            ).Message;

        async Task WriteAsync(params (string Name, string?[] Values)[] columns)
        {
            DataField[] fields = [.. columns.Select(column => new DataField<string>(column.Name))];
            await using var stream = File.Create(folder["list.parquet"]);
            await using var writer = await ParquetWriter.CreateAsync(new ParquetSchema(fields), stream);
            using var group = writer.CreateRowGroup();
            for (var i = 0; i < fields.Length; i++)
            {
                await group.WriteAsync(fields[i], columns[i].Values!);
            }

            group.CompleteValidate();
        }
    }

    [Fact]
    public async Task Missing_files_are_listed_at_once_or_left_out()
    {
        using var folder = new TemporaryFolder();
        File.Copy(Case("tail.mp4"), folder["a.mp4"]);
        File.Copy(Case("missing2.csv"), folder["list.csv"]);
        var error = Should.Throw<FileNotFoundException>(() => new VideoTable(folder["list.csv"], Reader, new ClipOptions()));
        error.Message.ShouldStartWith($"2 of the 3 files in '{folder["list.csv"]}' do not exist");
        error.Message.ShouldContain("none1.mp4");
        error.Message.ShouldContain("none2.mp4");
        error.FileName.ShouldBe(folder["none1.mp4"]);

        var table = new VideoTable(folder["list.csv"], Reader, new ClipOptions(), leaveOutMissing: true);
        table.Paths.ShouldBe([folder["a.mp4"]]);
        table.PassedOver.Select(other => Path.GetFileName(other.Path)).ShouldBe(["none1.mp4", "none2.mp4"]);
        table.PassedOver[1].Reason.ShouldStartWith("record 4");

        Run("mkfifo", folder["pipe.mp4"]);
        File.CreateSymbolicLink(folder["no0.mp4"], "elsewhere.mp4");
        await File.WriteAllTextAsync(
            folder["list.csv"],
            "path,caption\npipe.mp4,x\n" + string.Concat(Enumerable.Range(0, 20).Select(i => $"no{i}.mp4,x\n"))
        );
        foreach (var leaveOut in new[] { false, true })
        {
            var all = Should.Throw<FileNotFoundException>(() =>
                new VideoTable(folder["list.csv"], Reader, new ClipOptions(), leaveOutMissing: leaveOut)
            );
            all.Message.ShouldContain("21 of the 21 files");
            all.Message.ShouldContain("no3.mp4' and 16 more");
        }
    }

    private static async Task<string> TableAsync(TemporaryFolder folder, string name)
    {
        await File.WriteAllTextAsync(folder["table.csv"], $"path,caption\n{name},x\n");
        return folder["table.csv"];
    }

    private static void Run(string program, params string[] arguments)
    {
        using var process = Process.Start(program, arguments);
        process.WaitForExit();
        process.ExitCode.ShouldBe(0);
    }

    private sealed class Listed(List<(int Index, string Reason)> reported) : IProgress<(int Index, string Reason)>
    {
        public void Report((int Index, string Reason) value)
        {
            lock (reported)
            {
                reported.Add(value);
            }
        }
    }

    // A reader with an ffmpeg that writes a line to ffmpeg.log when a length is measured, for which frames are scaled to 2x2 pixels.
    private static async Task<VideoReader> CountingReaderAsync(TemporaryFolder folder)
    {
        await ScriptAsync("ffmpeg", """case "$*" in *scale=2:2*) echo measured >> "$0.log" ;; esac""");
        await ScriptAsync("ffprobe", "");
        return new VideoReader(folder.Path);

        async Task ScriptAsync(string name, string line)
        {
            await File.WriteAllTextAsync(folder[name], $"#!/bin/sh\n{line}\nexec {name} \"$@\"\n");
            Run("chmod", "+x", folder[name]);
        }
    }
}
