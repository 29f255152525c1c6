using OpenSora.Preparation.Manifests;
using Parquet;
using Parquet.Schema;

namespace OpenSora.Preparation.Tests.Manifests;

public sealed class ParquetTests : IDisposable
{
    private readonly TemporaryFolder _folder = new();

    public void Dispose() => _folder.Dispose();

    [Fact]
    public async Task Columns_of_all_simple_types_are_read()
    {
        var path = _folder["types.parquet"];
        DataField[] fields =
        [
            new DataField<float>("score"),
            new DataField<string>("Caption"),
            new DataField<long?>("num_frames"),
            new DataField<string>("path", nullable: false),
            new DataField<bool>("isGood"),
            new DataField<long>("id"),
            new DataField<double>("fps"),
            new DataField<int>("width"),
            new DataField<decimal>("price"),
        ];
        await using (var stream = File.Create(path))
        await using (var writer = await ParquetWriter.CreateAsync(new ParquetSchema(fields), stream))
        {
            using var group = writer.CreateRowGroup();
            await group.WriteAsync<float>(fields[0], new float[] { 0.1f, 3 });
            await group.WriteAsync(fields[1], (string?[])["a dog", null]!);
            await group.WriteAsync<long>(fields[2], new long?[] { 12, null });
            await group.WriteAsync(fields[3], (string[])["a.mp4", "b.mp4"]);
            await group.WriteAsync<bool>(fields[4], new[] { true, false });
            await group.WriteAsync<long>(fields[5], new[] { 1, 9007199254740993 });
            await group.WriteAsync<double>(fields[6], new[] { 24, double.NaN });
            await group.WriteAsync<int>(fields[7], new[] { 640, 0 });
            await group.WriteAsync<decimal>(fields[8], new[] { 1.50m, -2 });
            group.CompleteValidate();
        }

        (await Manifest.ReadAsync(path).ToArrayAsync()).ShouldBe([
            new()
            {
                Path = "a.mp4",
                Text = "a dog",
                NumFrames = 12,
                Fps = 24,
                Width = 640,
                Columns = [new("score", 0.1), new("isGood", "true"), new("id", 1), new("price", 1.5)],
            },
            new()
            {
                Path = "b.mp4",
                Width = 0,
                Columns = [new("score", 3), new("isGood", "false"), new("id", "9007199254740993"), new("price", -2)],
            },
        ]);
    }

    [Fact]
    public async Task Lists_are_an_error_with_the_column()
    {
        var path = _folder["lists.parquet"];
        var schema = new ParquetSchema(new DataField<string>("path"), new ListField("embedding", new DataField<double>("item")));
        await using (var stream = File.Create(path))
        {
            await (await ParquetWriter.CreateAsync(schema, stream)).DisposeAsync();
        }

        var error = await Should.ThrowAsync<PreparationException>(() => Manifest.ReadAsync(path).CountAsync().AsTask());
        error.Message.ShouldContain("The column 'embedding' of");
    }

    [Fact]
    public async Task A_damaged_file_is_an_error_with_its_name()
    {
        var path = _folder["whole.parquet"];
        var rows = Enumerable.Range(0, 500).Select(i => new ManifestRow { Path = $"{i}.mp4", Text = $"clip {i}", Columns = [new("x", i)] });
        await Manifest.WriteAsync(path, rows.ToAsyncEnumerable());
        var whole = await File.ReadAllBytesAsync(path);
        var (errors, damaged) = (0, _folder["damaged.parquet"]);
        for (var i = 0; i < 60; i++)
        {
            var bytes = i % 2 == 0 ? whole[..(whole.Length * i / 60)] : [.. whole];
            if (i % 2 == 1)
            {
                bytes[bytes.Length * i / 60] ^= 0x55;
            }

            await File.WriteAllBytesAsync(damaged, bytes);
            try
            {
                await Manifest.ReadAsync(damaged).CountAsync();
                i.ShouldNotBe(i & ~1, "a truncated file must not be readable");
            }
            catch (PreparationException e)
            {
                e.Reason.ShouldBe("malformed manifest");
                e.Message.ShouldContain(damaged);
                errors++;
            }
        }

        errors.ShouldBeGreaterThan(30);
        await File.WriteAllTextAsync(damaged, "path,text\na,b\n");
        (await Should.ThrowAsync<PreparationException>(() => Manifest.ReadAsync(damaged).CountAsync().AsTask())).Message.ShouldContain(
            "is not a Parquet file, or is damaged"
        );
    }
}
