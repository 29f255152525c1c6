using System.Globalization;
using System.Text;
using FsCheck;
using FsCheck.Fluent;
using OpenSora.Preparation.Manifests;

namespace OpenSora.Preparation.Tests.Manifests;

public sealed class ManifestTests : IDisposable
{
    private static readonly ManifestRow[] Examples =
    [
        new()
        {
            Path = "clips/a.mp4",
            Text = "a dog, running",
            NumFrames = 120,
            Height = 720,
            Width = 1280,
            AspectRatio = 0.5625,
            Fps = 29.97002997002997,
            Resolution = 921600,
            Columns = [new("motion", 0.1), new("kind", "pan")],
        },
        new()
        {
            Path = "clips/\"b\";1.png",
            Text = "two\nlines, \"quoted\" – 犬 🐕",
            NumFrames = 1,
            Columns = [new("motion", 1e-5), new("kind", " left")],
        },
        new() { Path = " c.mp4 ", Columns = [new("motion", default), new("kind", "007")] },
    ];

    private readonly TemporaryFolder _folder = new();

    public void Dispose() => _folder.Dispose();

    [Fact]
    public async Task Csv_has_the_columns_of_open_sora_and_then_the_scores()
    {
        (await WriteAsync("all.csv", Examples)).ShouldBe(
            "path,text,num_frames,height,width,aspect_ratio,fps,resolution,motion,kind\n"
                + "clips/a.mp4,\"a dog, running\",120,720,1280,0.5625,29.97002997002997,921600,0.1,pan\n"
                + "\"clips/\"\"b\"\";1.png\",\"two\nlines, \"\"quoted\"\" – 犬 🐕\",1,,,,,,1E-05,\" left\"\n"
                + "\" c.mp4 \",,,,,,,,,007\n"
        );
        (await WriteAsync("none.csv", [])).ShouldBe("path,text,num_frames,height,width,aspect_ratio,fps,resolution\n");
        (await Manifest.ReadAsync(_folder["none.csv"]).CountAsync()).ShouldBe(0);
    }

    [Fact]
    public async Task Csv_of_open_sora_1_0_has_no_line_of_names()
    {
        (await WriteAsync("old.csv", Examples[..2], ManifestFormat.CsvWithoutHeader)).ShouldBe(
            "clips/a.mp4,\"a dog, running\",120\n\"clips/\"\"b\"\";1.png\",\"two\nlines, \"\"quoted\"\" – 犬 🐕\",1\n"
        );
        (await ReadAsync("old.csv")).ShouldBe(
            Examples[..2]
                .Select(row => new ManifestRow
                {
                    Path = row.Path,
                    Text = row.Text,
                    NumFrames = row.NumFrames,
                })
        );
        await File.WriteAllTextAsync(_folder["pairs.csv"], "a.mp4, a dog\nb.mp4, \"a, cat\"\n");
        (await ReadAsync("pairs.csv")).ShouldBe([new() { Path = "a.mp4", Text = "a dog" }, new() { Path = "b.mp4", Text = "a, cat" }]);
    }

    [Theory]
    [InlineData("all.csv")]
    [InlineData("all.tsv")]
    [InlineData("all.parquet")]
    public async Task Rows_are_preserved(string name)
    {
        await WriteAsync(name, Examples);
        (await ReadAsync(name)).ShouldBe(Examples);
    }

    [Fact]
    public void Formats_preserve_all_rows_and_convert_to_each_other_without_loss()
    {
        var count = 0;
        Check.One(
            Config.QuickThrowOnFailure.WithMaxTest(40),
            Prop.ForAll(
                (NonNull<(string?, string?, double, string?)[]> generated, bool isNumber, NonNegativeInt size) =>
                {
                    ManifestRow[] rows =
                    [
                        .. generated.Get.Select(
                            (item, i) =>
                                new ManifestRow
                                {
                                    Path = Valid(item.Item1) is var path && string.IsNullOrWhiteSpace(path) ? "x" : path,
                                    Text = Valid(item.Item2),
                                    NumFrames = i % 3 == 0 ? null : size.Get,
                                    Height = i % 2 == 0 ? null : size.Get * i,
                                    AspectRatio = double.IsFinite(item.Item3) ? Math.Abs(item.Item3) : null,
                                    Resolution = 1L << (i % 53),
                                    Columns =
                                    [
                                        new("score", i % 4 == 0 ? default : item.Item3),
                                        new("any, \"thing\"", isNumber ? item.Item3 : Valid(item.Item4)),
                                    ],
                                }
                        ),
                    ];
                    var name = (count++).ToString(CultureInfo.InvariantCulture);
                    var csv = WriteAsync($"{name}.csv", rows).GetAwaiter().GetResult();
                    WriteAsync($"{name}.parquet", rows).GetAwaiter().GetResult();
                    ReadAsync($"{name}.csv").GetAwaiter().GetResult().ShouldBe(rows);
                    var fromParquet = ReadAsync($"{name}.parquet").GetAwaiter().GetResult();
                    fromParquet.ShouldBe(rows);
                    WriteAsync($"{name}-2.csv", fromParquet).GetAwaiter().GetResult().ShouldBe(csv);
                }
            )
        );
        count.ShouldBeGreaterThanOrEqualTo(40);

        static string Valid(string? text) => new([.. (text ?? "").Where(each => each != '\0' && !char.IsSurrogate(each))]);
    }

    [Theory]
    [InlineData("0", 0d)]
    [InlineData("-0.5", -0.5)]
    [InlineData("1.0", 1d)]
    [InlineData("1e-05", 1e-5)]
    [InlineData("1E+16", 1e16)]
    [InlineData("9007199254740992", 9007199254740992d)]
    [InlineData("nan", double.NaN)]
    [InlineData("-Infinity", double.NegativeInfinity)]
    [InlineData("007", null)]
    [InlineData("+1", null)]
    [InlineData("1.", null)]
    [InlineData(".5", null)]
    [InlineData("1e", null)]
    [InlineData("1e+", null)]
    [InlineData("-", null)]
    [InlineData(" 1", null)]
    [InlineData("9007199254740993", null)]
    [InlineData("0.123456789012345678", null)]
    [InlineData("1e999", null)]
    [InlineData("1e-999", null)]
    [InlineData("pan", null)]
    public void Text_in_the_form_of_a_number_is_a_number(string text, double? number)
    {
        ManifestValue value = text;
        value.Number.ShouldBe(number);
        value.Text.ShouldBe(number is null ? text : null);
        value.IsEmpty.ShouldBeFalse();
        ((ManifestValue)value.ToString()).ShouldBe(value);
    }

    [Fact]
    public async Task A_file_gets_the_columns_of_all_rows_and_the_types_that_hold_them()
    {
        // More rows than a batch, so that new columns and text come after rows that are already written.
        const int count = 40_000;
        foreach (var name in (string[])["late.csv", "late.parquet"])
        {
            await Manifest.WriteAsync(_folder[name], Rows().ToAsyncEnumerable());
            var index = 0;
            await foreach (var row in Manifest.ReadAsync(_folder[name]))
            {
                ManifestColumns expected =
                [
                    new("score", index == count - 1 ? "unknown" : index),
                    new("late", index < 35_000 ? default(ManifestValue) : "y"),
                ];
                if (!row.Columns.Equals(expected))
                {
                    row.Columns.ShouldBe(expected);
                }

                index++;
            }

            index.ShouldBe(count);
        }

        Directory.GetFiles(_folder.Path).Length.ShouldBe(2);

        static IEnumerable<ManifestRow> Rows()
        {
            for (var i = 0; i < count; i++)
            {
                var row = new ManifestRow { Path = $"{i}.mp4", Columns = [new("score", i == count - 1 ? "unknown" : i)] };
                yield return i < 35_000 ? row : row.With("late", "x").With("LATE", "y");
            }
        }
    }

    [Fact]
    public async Task The_same_rows_are_the_same_bytes()
    {
        foreach (var name in (string[])["a.csv", "a.parquet"])
        {
            await WriteAsync(name, Examples);
            var first = await File.ReadAllBytesAsync(_folder[name]);
            await Manifest.WriteAsync(_folder[name], Manifest.ReadAsync(_folder[name]));
            (await File.ReadAllBytesAsync(_folder[name])).ShouldBe(first);
        }
    }

    [Fact]
    public async Task Files_of_other_programs_are_read()
    {
        ManifestRow[] expected =
        [
            new()
            {
                Path = "a.mp4",
                Text = "ein Hund; läuft",
                NumFrames = 12,
                Columns = [new("Unnamed: 0", 0), new("Score", 0.5)],
            },
        ];
        foreach (
            var text in (string[])
                [
                    ",path,Text , NUM_FRAMES,Score\r\n0,a.mp4,ein Hund; läuft,12.0,0.50\r\n\r\n",
                    "\r\r\n;path;caption;num_frames;Score\n0; a.mp4 ;\"ein Hund; läuft\";12;0.5",
                    "\uFEFF\tpath\ttext\tnum_frames\tScore\n0\ta.mp4\tein Hund; läuft\t12\t5e-1\n   \n",
                ]
        )
        {
            foreach (var encoding in (Encoding[])[new UTF8Encoding(), new UTF8Encoding(true), Encoding.Unicode, Encoding.BigEndianUnicode])
            {
                await File.WriteAllTextAsync(_folder["other.csv"], text, encoding);
                (await ReadAsync("other.csv")).ShouldBe(expected, text);
            }
        }

        await File.WriteAllTextAsync(_folder["unknown.csv"], "path,num_frames,aspect_ratio\na.mp4,,nan\n");
        (await ReadAsync("unknown.csv")).ShouldBe([new() { Path = "a.mp4" }]);
    }

    [Theory]
    [InlineData("file,caption\na,b\n", "needs the column path")]
    [InlineData("", "is empty")]
    [InlineData("\n \n", "is empty")]
    [InlineData("path,text,Path\na,b,c\n", "several columns with the name 'path'")]
    [InlineData("path,x,X\na,b,c\n", "Several columns have the name 'X'")]
    [InlineData("path,text\na,b\nc\n", "The record at line 3 of", "has 1 fields; expected 2")]
    [InlineData("path,text\na,\"b\nb\"\n,c\n", "The record at line 4 of", "has no path")]
    [InlineData("path,text\na,b\"c\" d\ne,\"f\"g\n", "The record at line", "quotation mark")]
    [InlineData("path,num_frames\na,1\nb,many\n", "line 3", "'many' in the column num_frames; expected a whole number")]
    [InlineData("path,num_frames\na,1.5\n", "line 2", "'1.5'")]
    [InlineData("path,height\na,-1\n", "line 2", "height")]
    [InlineData("path,fps\na,inf\n", "line 2", "fps")]
    [InlineData("path,text\na,b\nc,\0\n", "Line 3 of", "null characters")]
    [InlineData("a.mp4,x,1\nb.mp4,y\n", "line 2", "has 2 fields")]
    public async Task Malformed_csv_is_an_error_with_the_file_and_the_line(string text, params string[] message)
    {
        await File.WriteAllTextAsync(_folder["bad.csv"], text);
        var error = await Should.ThrowAsync<PreparationException>(() => ReadAsync("bad.csv"));
        error.Reason.ShouldBe("malformed manifest");
        error.Message.ShouldContain(_folder["bad.csv"]);
        Array.ForEach(message, part => error.Message.ShouldContain(part));
    }

    [Fact]
    public async Task Text_that_is_not_utf_8_is_an_error_with_the_line()
    {
        await File.WriteAllBytesAsync(_folder["latin.csv"], Encoding.Latin1.GetBytes("path,text\na.mp4,b\nb.mp4,läuft\n"));
        (await Should.ThrowAsync<PreparationException>(() => ReadAsync("latin.csv"))).Message.ShouldContain("Line 3 of");
    }

    [Fact]
    public async Task A_missing_quotation_mark_does_not_read_the_rest_of_the_file()
    {
        await using (var writer = new StreamWriter(_folder["open.csv"]))
        {
            await writer.WriteAsync("path,text\na.mp4,\"never closed\n");
            for (var i = 0; i < 400_000; i++)
            {
                await writer.WriteAsync("clips/more.mp4,another caption\n");
            }
        }

        (await Should.ThrowAsync<PreparationException>(() => ReadAsync("open.csv"))).Message.ShouldContain("Is a quotation mark missing?");
    }

    [Fact]
    public async Task Rows_that_a_file_cannot_contain_are_errors_and_leave_no_file()
    {
        foreach (
            var row in (ManifestRow[])
                [
                    new() { Path = " " },
                    new() { Path = "a", Text = "\ud83d" },
                    new() { Path = "a\0" },
                    new() { Path = "a", Fps = double.NaN },
                    new() { Path = "a", NumFrames = -1 },
                    new() { Path = "a", Columns = [new("x", "\udc15\ud83d")] },
                    new() { Path = "a", Text = new string('x', 2_000_000) },
                ]
        )
        {
            foreach (var name in (string[])["a.csv", "a.parquet"])
            {
                var error = await Should.ThrowAsync<PreparationException>(() => WriteAsync(name, [Examples[0], row]));
                error.Message.ShouldContain("Row 2");
            }
        }

        Directory.GetFiles(_folder.Path).ShouldBeEmpty();
    }

    [Fact]
    public async Task Other_extensions_and_missing_files_are_errors()
    {
        Should.Throw<ArgumentException>(() => Manifest.ReadAsync("a.json")).Message.ShouldContain(".parquet");
        await Should.ThrowAsync<ArgumentException>(() => Manifest.WriteAsync("a", Examples.ToAsyncEnumerable()));
        Should.Throw<FileNotFoundException>(() => Manifest.ReadAsync(_folder["none.csv"])).Message.ShouldContain("does not exist");
    }

    [Theory]
    [InlineData("a.csv")]
    [InlineData("a.parquet")]
    public async Task Reading_and_writing_can_be_canceled(string name)
    {
        using var stop = new CancellationTokenSource();
        await Should.ThrowAsync<OperationCanceledException>(() => Manifest.WriteAsync(_folder[name], RowsAsync(), null, stop.Token));
        Directory.GetFiles(_folder.Path).ShouldBeEmpty();
        await WriteAsync(name, Examples);
        await Should.ThrowAsync<OperationCanceledException>(() => Manifest.ReadAsync(_folder[name], stop.Token).CountAsync().AsTask());

        async IAsyncEnumerable<ManifestRow> RowsAsync()
        {
            yield return Examples[0];
            await stop.CancelAsync();
            yield return Examples[1];
        }
    }

    [Fact]
    public void Names_of_columns_are_verified()
    {
        ManifestRow row = new()
        {
            Path = "a",
            Fps = 24,
            Columns = [new("motion", 1)],
        };
        row["MOTION"].ShouldBe(1);
        row["Fps"].ShouldBe(24);
        row["path"].ShouldBe("a");
        row["other"].IsEmpty.ShouldBeTrue();
        row.With("motion", 2)["motion"].ShouldBe(2);
        foreach (var name in (string[])["", " a", "Path", "num_frames"])
        {
            Should.Throw<ArgumentException>(() => row.With(name, 1));
        }

        Should.Throw<ArgumentException>(() => ManifestColumns.Create([new("a", 1), new("A", 2)])).Message.ShouldContain("Several columns");
    }

    private async Task<string> WriteAsync(string name, IEnumerable<ManifestRow> rows, ManifestFormat? format = null)
    {
        await Manifest.WriteAsync(_folder[name], rows.ToAsyncEnumerable(), format);
        return await File.ReadAllTextAsync(_folder[name]);
    }

    private async Task<ManifestRow[]> ReadAsync(string name) => await Manifest.ReadAsync(_folder[name]).ToArrayAsync();
}
