using System.Globalization;
using OpenSora.Goldens;

if (args is not [var folder] || !Directory.Exists(folder))
{
    Console.Error.WriteLine("Usage: OpenSora.Goldens FOLDER - checks every recorded case (*.safetensors, *.json) in the folder.");
    return 2;
}

var failed = 0;
foreach (var path in GoldenCase.Find(folder))
{
    var name = Path.GetFileNameWithoutExtension(path);
    try
    {
        var comparisons = GoldenCase.Check(path);
        var worst = comparisons.MaxBy(comparison => comparison.Error / comparison.Limit)!;
        var ok = comparisons.All(comparison => comparison.Ok);
        failed += ok ? 0 : 1;
        Console.WriteLine(
            string.Create(
                CultureInfo.InvariantCulture,
                $"{name, -32} {comparisons.Count, 4} tensors   "
                    + $"largest error {worst.Error:E1} (limit {worst.Limit:E0})   {(ok ? "ok" : $"FAIL: {worst.Name}")}"
            )
        );
    }
    catch (NotSupportedException error)
    {
        Console.WriteLine($"{name, -32} not supported yet: {error.Message}");
    }
    catch (Exception error)
        when (error
                is InvalidDataException
                    or ArgumentException
                    or InvalidOperationException
                    or KeyNotFoundException
                    or OpenSora.Weights.InvalidWeightsException
        )
    {
        failed++;
        Console.WriteLine($"{name, -32} FAIL: {error.Message}");
    }
}
return failed == 0 ? 0 : 1;
