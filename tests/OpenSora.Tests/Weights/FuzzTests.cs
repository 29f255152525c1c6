using System.Diagnostics;
using System.Text;
using OpenSora.Weights;
using TorchSharp;
using static TorchSharp.torch;

namespace OpenSora.Tests.Weights;

/// <summary>Tests damaged and malicious files: each is read or rejected with a reason, without a crash, without executing code and without exhausting
/// memory.</summary>
public sealed class FuzzTests : IDisposable
{
    /// <summary>The environment variable with the number of mutated files; 2,000 without it.</summary>
    private const string CountVariable = "OPENSORA_FUZZ";

    // What an exception with its stack costs, beside what the reader itself may allocate.
    private const long OfExceptions = 1 << 16;

    private readonly TemporaryFolder _folder = new();

    public void Dispose() => _folder.Dispose();

    [Fact]
    public void Mutated_files_are_read_or_refused()
    {
        var count = int.Parse(Environment.GetEnvironmentVariable(CountVariable) ?? "2000", System.Globalization.CultureInfo.InvariantCulture);
        var mutations = new Mutations(20240318, SafetensorsSeed());
        var before = TensorCount.Start();
        var reasons = new Dictionary<string, int>(StringComparer.Ordinal);
        var (read, large, longest, most) = (0, 0, TimeSpan.Zero, 0.0);
        for (var i = 0; i < count; i++)
        {
            var (kind, bytes) = mutations.Next();
            var start = Stopwatch.GetTimestamp();
            var refused = Try(bytes, $"file {i}, {kind}", out var allocated);
            longest = TimeSpan.FromTicks(Math.Max(longest.Ticks, Stopwatch.GetElapsedTime(start).Ticks));
            large += Limit(bytes.Length) == 2L * bytes.Length ? 1 : 0;
            most = Math.Max(most, allocated / (double)Limit(bytes.Length));
            if (refused is null)
            {
                read++;
            }
            else
            {
                reasons[refused[..Math.Min(30, refused.Length)]] = reasons.GetValueOrDefault(refused[..Math.Min(30, refused.Length)]) + 1;
            }
        }

        File.Exists("opensora-command-was-run").ShouldBeFalse();
        before.More.ShouldBe(0);
        TestContext.Current.TestOutputHelper?.WriteLine(
            $"{count} files: {read} read, {count - read} refused for {reasons.Count} kinds of reasons; "
                + $"at most {most:P0} of the allowance, {longest.TotalMilliseconds:F0} ms."
        );
        read.ShouldBeGreaterThan(count / 50);
        large.ShouldBeGreaterThan(count / 50); // their allowance is exactly twice their length
        reasons.Count.ShouldBeGreaterThan(15); // mutations reach far behind the first checks
    }

    public static TheoryData<string> Bombs => [.. Mutations.Bombs.Keys];

    [Theory]
    [MemberData(nameof(Bombs))]
    public void Pickles_made_to_exhaust_memory_are_rejected(string name)
    {
        var bytes = StoredZip.Of(("a/data.pkl", [0x80, 2, .. Mutations.Bombs[name](), (byte)'.']));
        bytes.Length.ShouldBeGreaterThan(400_000);
        Try(bytes, name, out _).ShouldNotBeNull();
    }

    [Fact]
    public void Headers_made_to_exhaust_memory_are_rejected()
    {
        var entries = string.Join(',', Enumerable.Range(0, 60_000).Select(i => $"\"{i}\":{{\"dtype\":\"U8\",\"shape\":[0],\"data_offsets\":[0,0]}}"));
        foreach (
            var header in new[]
            {
                $"{{{entries}}}",
                "{\"__metadata__\":{" + string.Join(',', Enumerable.Range(0, 150_000).Select(i => $"\"{i}\":\"\"")) + "}}",
                new string('[', 500_000),
                $"{{\"{new string('x', 500_000)}\":1}}",
            }
        )
        {
            Try(Safetensors(header, []), header[..20], out _).ShouldNotBeNull();
        }

        Try(Safetensors($"{{{entries}}}", []), "entries", out _)!.ShouldContain("exhaust memory");
    }

    [Fact]
    public void Many_small_tensors_are_no_bomb()
    {
        using (NewDisposeScope())
        {
            SafetensorsWriter.Write(
                _folder["many"],
                Enumerable.Range(0, 3000).Select(i => KeyValuePair.Create($"blocks.{i}.attention.projection.weight", ones(16)))
            );
            using var file = WeightsFile.Open(_folder["many"]);
            file.Tensors.Count.ShouldBe(3000);
        }

        var pickle = new List<byte> { 0x80, 2, (byte)'}', (byte)'(' };
        var records = new List<(string, byte[])>();
        for (var i = 0; i < 3000; i++)
        {
            pickle.AddRange(Pickle.Text($"blocks.{i}.attention.projection.weight"));
            pickle.AddRange(Pickle.Tensor($"{i}", 16));
            records.Add(($"a/data/{i}", new byte[64]));
        }

        records.Insert(0, ("a/data.pkl", [.. pickle, (byte)'u', (byte)'.']));
        File.WriteAllBytes(_folder["many.pt"], StoredZip.Of(records));
        using var checkpoint = WeightsFile.Open(_folder["many.pt"]);
        checkpoint.Tensors.Count.ShouldBe(3000);
    }

    private static long Limit(long length) => Math.Max(2 * length, Allowance.Least);

    /// <summary>Opens a file and reads every tensor; returns the reason if it was rejected.</summary>
    private string? Try(byte[] bytes, string what, out long allocated)
    {
        var path = _folder["fuzzed"];
        File.WriteAllBytes(path, bytes);
        var start = GC.GetAllocatedBytesForCurrentThread();
        allocated = 0;
        try
        {
            using var file = WeightsFile.Open(path);
            allocated = GC.GetAllocatedBytesForCurrentThread() - start;
            allocated.ShouldBeLessThanOrEqualTo(Limit(bytes.Length), what);
            foreach (var (name, entry) in file.Tensors)
            {
                using var scope = NewDisposeScope();
                file.Read(name).Dispose(); // what is made once in a process, such as the table of operators, is no file's affair
                start = GC.GetAllocatedBytesForCurrentThread();
                var tensor = file.Read(name);
                (GC.GetAllocatedBytesForCurrentThread() - start).ShouldBeLessThanOrEqualTo(OfExceptions, what);
                tensor.shape.ShouldBe(entry.Shape);
                Touch(tensor, entry);
            }

            return null;
        }
        catch (InvalidWeightsException exception)
        {
            if (allocated == 0)
            {
                (allocated = GC.GetAllocatedBytesForCurrentThread() - start).ShouldBeLessThanOrEqualTo(Limit(bytes.Length) + OfExceptions, what);
            }

            exception.Reason.Length.ShouldBeInRange(10, 2000, what);
            return exception.Reason;
        }
        catch (Exception exception) when (exception is not ShouldAssertException)
        {
            File.Copy(path, Path.Combine(Path.GetTempPath(), "opensora-fuzz-failure"), overwrite: true);
            throw new InvalidOperationException($"{what} ({bytes.Length} bytes) led to {exception.GetType().Name}.", exception);
        }
    }

    /// <summary>Uses every element of a tensor, or the corners of one that claims many elements in few bytes.</summary>
    private static void Touch(Tensor tensor, TensorEntry entry)
    {
        if (entry.Elements == 0)
        {
            return;
        }

        if (entry.Elements < 100_000)
        {
            tensor.to_type(ScalarType.Float64).sum().item<double>();
            return;
        }

        foreach (var last in new[] { false, true })
        {
            var corner = tensor;
            while (corner.dim() > 0)
            {
                corner = corner.select(0, last ? corner.shape[0] - 1 : 0);
            }

            corner.to_type(ScalarType.Float64).item<double>();
        }
    }

    private byte[] SafetensorsSeed()
    {
        using var scope = NewDisposeScope();
        SafetensorsWriter.Write(
            _folder["seed"],
            new Dictionary<string, Tensor>
            {
                ["one"] = arange(0, 12, ScalarType.Float32).view(3, 4),
                ["two"] = arange(0, 5, ScalarType.Int64),
                ["three"] = ones([2, 2], ScalarType.Bool),
                ["four"] = ones(3, ScalarType.BFloat16),
            },
            new Dictionary<string, string> { ["format"] = "pt" }
        );
        return File.ReadAllBytes(_folder["seed"]);
    }

    private static byte[] Safetensors(string header, byte[] data) =>
        [.. BitConverter.GetBytes((long)Encoding.UTF8.GetByteCount(header)), .. Encoding.UTF8.GetBytes(header), .. data];
}
